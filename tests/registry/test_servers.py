"""Real processes: a tracking server, a scoring server, a machine without graft, a kill."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

import graft
from graft.backbones.descriptions import read_model_json
from graft.params import Registry
from graft.registry.champion import champion
from graft.registry.packaging import SERVED_MODEL

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]
Enter = Callable[..., dict[str, Any]]
Candidate = Callable[..., Path]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def running(arguments: list[str], health: str, cwd: Path, **environment: str) -> Iterator[None]:
    """`mlflow ARGUMENTS` until the block ends; starts when `health` answers."""
    log = cwd / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments],
            cwd=cwd,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # it calls uvicorn
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "true",
                **environment,
            },
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for(health, process, log)
            yield
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 150
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer:\n{log.read_text()[-3000:]}")


def pictures() -> list[bytes]:
    streams = [io.BytesIO() for _ in range(4)]
    pixels = np.random.default_rng(1).integers(0, 256, (4, 50, 40, 3), dtype=np.uint8)
    for stream, each in zip(streams, pixels, strict=True):
        Image.fromarray(each).save(stream, "PNG")
    return [stream.getvalue() for stream in streams]


def ask(port: int, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read().decode()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["predictions"]


def test_a_tracking_server_with_its_own_artifact_store(
    registry: Registry, enter: Enter, candidate: Candidate, tmp_path: Path
) -> None:
    port = free_port()
    server = Registry(tracking_uri=f"http://127.0.0.1:{port}", model_name="insects")
    arguments = ["server", "--backend-store-uri", str(registry.tracking_uri), "--workers", "1"]
    arguments += ["--artifacts-destination", str(tmp_path / "store"), "--port", str(port)]
    with running(arguments, f"http://127.0.0.1:{port}/health", tmp_path):
        assert champion(server) is None
        first = enter(candidate(seed=0), params=server)
        assert (first["version"], first["champion"], first["reused"]) == ("1", True, False)
        assert enter(candidate(seed=0), params=server, promote=False)["reused"]
        second = enter(candidate(seed=1), params=server, promote=False)
        assert (second["version"], second["aliases"]) == ("2", ["challenger"])
        found = champion(server)
        (weights, _) = sorted((tmp_path / "store").rglob("weights.safetensors"), key=os.path.getmtime)
        weights.unlink()
        lost = champion(server)
    assert found is not None
    assert found.folder is not None
    assert read_model_json(found.folder) == read_model_json(candidate(seed=0))
    assert lost is not None
    assert (lost.version, lost.folder) == ("1", None)
    assert "no weights.safetensors" in str(lost.problem)


def test_a_scoring_server_gives_the_classifiers_probabilities(
    registry: Registry, enter: Enter, candidate: Candidate, tmp_path: Path
) -> None:
    folder = candidate()
    enter(folder)
    expected = graft.load(folder).predict(pictures())
    classes = graft.load(folder).classes
    (tmp_path / "secret.png").write_bytes(pictures()[0])
    images = [base64.b64encode(each).decode() for each in pictures()]
    port = free_port()
    arguments = ["models", "serve", "-m", "models:/insects@champion", "--env-manager", "local"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    with running(
        arguments,
        f"http://127.0.0.1:{port}/ping",
        tmp_path,
        MLFLOW_TRACKING_URI=str(registry.tracking_uri),
        OMP_NUM_THREADS="1",
    ):
        whole = {"columns": ["image"], "data": [[image] for image in images]}
        split = ask(port, {"dataframe_split": whole, "params": {"top_k": 4}})
        mixed = [{"image": images[0]}, {"image": "###"}, {"image": str(tmp_path / "secret.png")}]
        records = ask(port, {"dataframe_records": [*mixed, {"image": None}]})
        pixels = np.asarray(Image.open(io.BytesIO(pictures()[0]))).tolist()
        numbers = ask(port, {"dataframe_records": [{"image": pixels}]})
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(port, {"dataframe_records": mixed, "params": {"top_k": 0}})
        with pytest.raises(urllib.error.HTTPError) as nameless:
            ask(port, {"dataframe_records": [{"picture": images[0]}]})
    for row, wanted in zip(split, expected, strict=True):
        listed = {each["label"]: each["probability"] for each in json.loads(row["top"])}
        np.testing.assert_allclose([listed[name] for name in classes], wanted, atol=1e-5)
        assert row["error"] is None
    assert [row["error"] for row in records] == [None, "not base64", "not base64", "no image given"]
    assert records[1]["probability"] is None
    np.testing.assert_allclose(numbers[0]["probability"], expected[0].max(), atol=1e-5)
    assert (refused.value.code, nameless.value.code) == (400, 400)


WITHOUT_GRAFT = """
import importlib.util, json, sys
from pathlib import Path

here = [p for p in sys.path if not (Path(p or ".") / "graft").is_dir()]
sys.path[:] = here
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
assert importlib.util.find_spec("graft") is None, "graft can still be imported"

import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/insects@champion")
answers = model.predict(pandas.DataFrame({"image": sys.argv[1:]}), params={"top_k": 4})
import graft
print(json.dumps({"top": list(answers["top"]), "graft": graft.__file__}))
"""


@pytest.mark.parametrize("backbone", ["digits_cnn", "mobilenet_v3_small"])
def test_the_model_loads_where_graft_is_not_installed(
    registry: Registry, enter: Enter, candidate: Candidate, tmp_path: Path, backbone: str
) -> None:
    folder = candidate(backbone=backbone)
    enter(folder)
    images = [base64.b64encode(each).decode() for each in pictures()[:1]]
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_GRAFT, *images],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": str(registry.tracking_uri), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not Path(found["graft"]).is_relative_to(SERVED_MODEL.parents[2])
    by_label = {each["label"]: each["probability"] for each in json.loads(found["top"][0])}
    model = graft.load(folder)
    wanted = model.predict(pictures()[:1])[0]
    np.testing.assert_allclose([by_label[name] for name in model.classes], wanted, atol=1e-5)


KILLED = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient
from graft.params import Registry
from graft.registry.registration import register

MlflowClient.set_registered_model_alias = lambda *_: os.kill(os.getpid(), 9)
register(
    Path(sys.argv[1]), {"winner": "probe", "promote": True}, Registry(model_name="insects"),
    lineage={"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64}, metrics={},
)
"""


def test_a_kill_between_version_and_alias(
    registry: Registry, enter: Enter, candidate: Candidate, tmp_path: Path
) -> None:
    enter(candidate(seed=0))
    winner = candidate(seed=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(winner)],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": str(registry.tracking_uri), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    client = MlflowClient(registry.tracking_uri)
    assert client.get_registered_model("insects").aliases == {"challenger": 1, "champion": 1}
    assert len(client.search_model_versions("name = 'insects'")) == 2
    result = enter(winner)
    assert (result["version"], result["reused"], result["champion"]) == ("2", True, True)
