"""The commands, arguments, environment and files of the MLflow manifest, run for real on this machine.

PostgreSQL and the store are this test's; their addresses and the port are all that is changed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image
from torch import nn

import graft
from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build
from graft.params import Registry
from graft.registry.registration import register
from pipelines.rolling import target
from tests.infra.conftest import SCRIPTS, free_port
from tests.infra.manifests import Manifest, find, render

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
SECRETS = {
    "postgres": {"password": "not asked for here"},
    "mlflow": {"admin-password": "the administrator's", "session-key": "for tests"},
    "mlflow-pipeline": {"MLFLOW_TRACKING_PASSWORD": "the pipeline's password"},
    "mlflow-reader": {"MLFLOW_TRACKING_PASSWORD": "the reader's password"},
}
BIN = Path(sys.executable).parent


def environment_of(container: Manifest, maps: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """As the kubelet makes it."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            values |= maps[source["configMapRef"]["name"]]
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            values[variable["name"]] = SECRETS[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
        else:
            values[variable["name"]] = variable["value"]
    return values


def locked(command: list[str], folder: Path) -> list[str]:
    """The command with nothing to write to but `folder`, where this machine can do that."""
    script = 'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'
    wrapped = ["unshare", "--mount", "sh", "-c", script, str(folder)]
    able = shutil.which("unshare") and subprocess.run([*wrapped, "true"], capture_output=True).returncode == 0
    return [*wrapped, *command] if able else command


@dataclass(frozen=True)
class Server:
    """MLflow, answering; `storage` is what its pod has of the ConfigMap and the keys."""

    port: int
    storage: dict[str, str]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str, host: str, user: str | None = None, password: str = "") -> int:
        request = urllib.request.Request(f"{self.uri}{path}", headers={"Host": host})
        if user:
            request.add_header("Authorization", f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def server(
    postgres: dict[str, str], store: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("pod"), free_port()
    manifests = render("base")
    maps = {each["metadata"]["name"]: each["data"] for each in manifests if each["kind"] == "ConfigMap"}
    pod = find(manifests, "Deployment", "mlflow")["spec"]["template"]["spec"]
    (auth,) = [volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "auth"]

    def here(text: str) -> str:
        return text.replace("@postgres:5432/", f"@127.0.0.1:{postgres['PGPORT']}/")

    (folder / "basic_auth.ini").write_text(here(maps[auth]["basic_auth.ini"]))
    (migrate,), (mlflow,) = pod["initContainers"], pod["containers"]
    changes = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"), "HOME": str(folder)}
    changes |= {"TMPDIR": str(folder), "PATH": f"{BIN}{os.pathsep}{postgres['PATH']}", **store}

    def environment(container: Manifest) -> dict[str, str]:
        asked = {name: here(value) for name, value in environment_of(container, maps).items()}
        return {**asked, **changes, "PYTHONDONTWRITEBYTECODE": "1"}

    storage = {**maps_named(maps, "storage"), **store}
    make = [sys.executable, str(SCRIPTS / "store.py"), "bucket", storage["MLFLOW_ARTIFACTS_DESTINATION"]]
    subprocess.run(make, env={**storage, "PATH": changes["PATH"]}, check=True)
    for _ in range(2):  # on an empty database, and on one that is up to date
        command = locked([*migrate["command"], *migrate["args"]], folder)
        done = subprocess.run(command, env=environment(migrate), cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    arguments = [str(port) if each == "5000" else each for each in mlflow["args"]]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            locked([*mlflow["command"], *arguments], folder),
            env=environment(mlflow), cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    running = Server(port, storage)
    try:
        wait(running, process, folder / "log", mlflow["readinessProbe"]["httpGet"]["path"])
        yield running
    finally:
        stop(process)


def maps_named(maps: Mapping[str, dict[str, str]], name: str) -> dict[str, str]:
    """kustomize adds a hash to the names of what it generates."""
    (found,) = [data for title, data in maps.items() if title.rpartition("-")[0] == name]
    return found


def wait(server: Server, process: subprocess.Popen[bytes], log: Path, path: str) -> None:
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            if server.status(path, "10.1.2.3:5000") == 200:  # as a kubelet's probe asks
                return
        time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def users(server: Server) -> dict[str, str]:
    """MLflow's users by the script of the CronJob `users`, run twice."""
    environment = {
        "PATH": os.environ["PATH"],
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": SECRETS["mlflow"]["admin-password"],
        "READER_PASSWORD": "a password of before",
        "PIPELINE_PASSWORD": SECRETS["mlflow-pipeline"]["MLFLOW_TRACKING_PASSWORD"],
    }
    script = next(each["data"]["users.py"] for each in render("base") if "users.py" in each.get("data", {}))
    for said in ("made", "there"):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count(said) == 2
        environment["READER_PASSWORD"] = SECRETS["mlflow-reader"]["MLFLOW_TRACKING_PASSWORD"]
    return {"pipeline": environment["PIPELINE_PASSWORD"], "reader": environment["READER_PASSWORD"]}


SEARCH = "/api/2.0/mlflow/registered-models/search"


@pytest.mark.parametrize("host", ["mlflow:5000", "mlflow.graft.svc.cluster.local:5000", "localhost:8080"])
def test_it_asks_for_a_password(server: Server, host: str) -> None:
    assert server.status(SEARCH, host) == 401
    assert server.status(SEARCH, host, "admin", "password1234") == 401
    assert server.status(SEARCH, host, "admin", SECRETS["mlflow"]["admin-password"]) == 200


@pytest.mark.parametrize("host", ["evil.example.com", "mlflow.graft.evil.example.com:5000"])
def test_it_answers_to_its_own_names_only(server: Server, host: str) -> None:
    assert server.status(SEARCH, host, "admin", SECRETS["mlflow"]["admin-password"]) == 403


def winner(folder: Path) -> Path:
    trunk, config = build("digits_cnn", seed=0)
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, 2)
    save_classifier(Classifier(trunk, head, config=config, classes=("ant", "bee")), folder, method="probe")
    return folder


@pytest.fixture(scope="module")
def download(server: Server, users: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What KServe's storage initializer leaves in /mnt/models.

    A model registered by `pipeline`, fetched from the store itself, at the address that `graft roll` finds as
    `reader`.
    """
    folder = tmp_path_factory.mktemp("models")
    params = Registry(tracking_uri=server.uri, model_name="insects")
    lineage = {"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64}
    decision = {"winner": "probe", "promote": True, "reasons": []}
    with acting(users, "pipeline"):
        register(winner(folder / "winner"), decision, params, lineage=lineage, metrics={})
    with acting(users, "reader"):
        found = target(params, "champion", server.storage["MLFLOW_ARTIFACTS_DESTINATION"])
    bucket, _, prefix = found.address.removeprefix("s3://").partition("/")
    s3 = boto3.client(
        "s3",
        endpoint_url=server.storage["AWS_ENDPOINT_URL_S3"],
        region_name=server.storage["AWS_REGION"],
        aws_access_key_id=server.storage["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=server.storage["AWS_SECRET_ACCESS_KEY"],
    )
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]:
        file = folder / "model" / item["Key"].removeprefix(f"{prefix}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, item["Key"], str(file))
    return folder / "model"


@contextmanager
def acting(users: dict[str, str], name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", name)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", users[name])
        patch.setenv("GIT_PYTHON_REFRESH", "quiet")
        yield


def test_a_reader_moves_no_alias(server: Server, users: dict[str, str], download: Path) -> None:
    with acting(users, "reader"), pytest.raises(MlflowException, match="403"):
        MlflowClient(server.uri).set_registered_model_alias("insects", "champion", "1")


def test_the_runtime_serves_what_was_downloaded(download: Path, tmp_path: Path) -> None:
    """The command of the ServingRuntime, without graft's own MLflow or the store."""
    (container,) = find(render("base"), "ServingRuntime", "graft")["spec"]["containers"]
    port = free_port()
    changes = {"/mnt/models": str(download), "8080": str(port)}
    arguments = [changes.get(each, each) for each in [*container["command"], *container["args"]]]
    environment = environment_of(container, {}) | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            locked(arguments, tmp_path),
            env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait(Server(port, {}), process, tmp_path / "log", container["readinessProbe"]["httpGet"]["path"])
        image = b64encode(picture()).decode()
        body = {"dataframe_split": {"columns": ["image"], "data": [[image]]}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            (answer,) = json.load(response)["predictions"]
    finally:
        stop(process)
    expected = graft.load(download / "artifacts" / "model").predict([picture()])[0]
    assert answer["label"] == ("ant", "bee")[int(expected.argmax())]
    assert answer["probability"] == pytest.approx(float(expected.max()), abs=1e-5)


def picture() -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
