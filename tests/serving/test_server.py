"""A registered model answers over HTTP, and from the command line by its address, as its folder does."""

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
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

import graft
from graft.errors import GraftError
from graft.params import Registry
from graft.registry.registration import register

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]
Command = Callable[..., Result]
LINEAGE = {"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64}


@pytest.fixture(scope="module")
def uri(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow whose model `insects` is the classifier of `folder`."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    params = Registry(tracking_uri=uri, model_name="insects")
    register(folder, {"winner": "probe", "promote": True}, params, lineage=LINEAGE, metrics={})
    return uri


@contextmanager
def serving(model: str, uri: str, cwd: Path) -> Iterator[str]:
    """The address of `mlflow models serve`, which answers inside."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = str(one.getsockname()[1])
    arguments = ["models", "serve", "-m", model, "--env-manager", "local", "--host", "127.0.0.1"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # it calls uvicorn
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    with (cwd / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments, "--port", port],
            cwd=cwd,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", process, cwd / "server.log")
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 150
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"{url} did not answer:\n{log.read_text()[-3000:]}")


def ask(url: str, images: list[str]) -> list[dict[str, Any]]:
    body = {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}
    body["params"] = {"top_k": 4}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answers: list[dict[str, Any]] = json.load(response)["predictions"]
    return answers


def test_the_server_gives_what_predict_gives(
    graft_command: Command, uri: str, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    arguments = ["models:/insects@champion", pictures, "-o", out, "--top-k", "4", "--tracking-uri", uri]
    assert graft_command("predict", *arguments).exit_code == 0
    rows = pd.read_parquet(out)
    with serving("models:/insects@champion", uri, tmp_path) as url:
        served = ask(url, [base64.b64encode(Path(path).read_bytes()).decode() for path in rows["path"]])
    assert len(served) == len(rows) == 8
    for answer, (_, row) in zip(served, rows.iterrows(), strict=True):
        if answer["error"] is not None:
            assert answer["error"] == row["error"]
            continue
        assert answer["label"] == row["label"]
        of_server, of_command = (
            {each["label"]: each["probability"] for each in json.loads(top)}
            for top in (answer["top"], row["top"])
        )
        assert of_server == pytest.approx(of_command, abs=1e-6)


@pytest.mark.parametrize("address", ["models:/insects/1", "models:/insects@challenger"])
def test_predict_by_address(
    graft_command: Command, uri: str, folder: Path, pictures: Path, address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = graft_command("predict", address, pictures / "a.png")
    (probability,) = pd.read_csv(io.StringIO(done.stdout))["probability"]
    np.testing.assert_allclose(probability, graft.load(folder).predict([pictures / "a.png"]).max(), atol=1e-6)


@pytest.mark.parametrize("address", ["models:/insects/7", "models:/insects@best", "models:/flowers/1"])
def test_no_such_version(graft_command: Command, uri: str, pictures: Path, address: str) -> None:
    with pytest.raises(GraftError, match=rf"{address} cannot be fetched from .*\n.*--tracking-uri"):
        graft_command("predict", address, pictures, "--tracking-uri", uri)
