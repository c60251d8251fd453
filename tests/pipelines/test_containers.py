"""What the steps' containers get of this machine, and what is said when a container cannot do its work.

No engine is needed here; tests/pipelines/test_docker.py has one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kfp import local

from components.__main__ import STEPS, step_component
from graft.errors import GraftError
from graft.files import write_json
from graft.params import Params, read_params
from pipelines.cli import graft
from pipelines.container_options import RUN, container_options, environment, files_to_read, folders_to_write
from pipelines.containers import REVISION, hold_to_outputs, pipeline_with
from pipelines.local import retrain
from pipelines.retraining import retraining

IMAGE = "graft-python:latest"
ID = "sha256:" + "ab" * 32
PLAIN = {"SecurityOptions": ["name=seccomp,profile=default"], "Runtimes": {"runc": {}}}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a home of their own, and an environment that says nothing."""
    for name in list(os.environ):
        if name.startswith(
            ("GRAFT_", "MLFLOW_", "AWS_", "HF_", "TORCH_HOME", "XDG_", "SSL_CERT", "REQUESTS_")
        ):
            monkeypatch.delenv(name)
    here = tmp_path / "here"
    for folder in (here / "data", tmp_path / "home"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAFT_HOME", str(here / ".graft"))
    monkeypatch.setenv("GRAFT_RUN", str(here / "runs" / "1"))
    return here


def options(params: Params | None = None, folder: str | None = None, **engine: Any) -> dict[str, Any]:
    here = Path.cwd()
    return container_options(
        params or Params(),
        folder or str(here / "data"),
        here / "runs" / "1",
        image=ID,
        engine={**PLAIN, **engine},
    )


def mounts(given: dict[str, Any]) -> dict[str, bool]:
    """Whether each mounted path may be written."""
    assert all(one["Source"] == one["Target"] and one["Type"] == "bind" for one in given["mounts"])
    return {one["Target"]: not one["ReadOnly"] for one in given["mounts"]}


def test_steps_see_their_folders_under_the_same_paths(place: Path) -> None:
    assert mounts(options()) == {
        str(place / "runs" / "1"): True,
        str(place / ".graft"): True,
        str(place): True,  # mlflow.db with its journal, and mlartifacts
        str(place / "data"): False,
    }
    assert (place / ".graft").is_dir()  # else the engine makes it, as root


def test_an_mlflow_server_needs_no_folder(place: Path) -> None:
    params = read_params([], ["registry.tracking_uri=http://127.0.0.1:5000"])
    assert str(place) not in mounts(options(params))
    assert options(params)["network_mode"] == "host"


@pytest.mark.parametrize(
    ("uri", "folder"),
    [("sqlite:///store/mlflow.db", "store"), ("sqlite:///{here}/b/m.db", "b"), ("file://{here}/c", "c")],
)
def test_an_mlflow_without_server_is_written_where_it_is(place: Path, uri: str, folder: str) -> None:
    params = read_params([], [f"registry.tracking_uri={uri.format(here=place)}"])
    assert mounts(options(params))[str(place / folder)] is True
    assert (place / folder).is_dir()


def test_data_at_an_address_is_not_mounted(place: Path) -> None:
    assert str(place / "data") not in mounts(options(folder="s3://bucket/data"))


def test_absent_data_is_left_to_the_step_that_says_so(place: Path) -> None:
    assert str(place / "no") not in mounts(options(folder=str(place / "no")))


def test_weights_and_teachers_from_files_are_readable(place: Path, tmp_path: Path) -> None:
    for path in (place / "a.pth", tmp_path / "b.safetensors", tmp_path / "teacher" / "model.json"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    params = read_params(
        [],
        [
            "backbone.weights=a.pth",
            "backbone.sha256=0123abcd",
            f"domain_adaptation.pace={{networks: [{{name: resnet18, weights: {tmp_path}/b.safetensors}}]}}",
            f"fine_tuning.distill={{teacher: {tmp_path}/teacher}}",
        ],
    )
    given = options(params)
    found = mounts(given)
    for path in (place / "a.pth", tmp_path / "b.safetensors", tmp_path / "teacher"):
        assert found[str(path)] is False
    assert given["working_dir"] == str(place)  # from where a.pth is a.pth


def test_weights_in_the_home_folder_are_refused_with_their_whole_path(tmp_path: Path) -> None:
    params = read_params([], ["backbone.weights=~/w.pth"])
    with pytest.raises(
        GraftError, match=f"begins with ~.*\n  fix: write the whole path: {tmp_path}/home/w.pth"
    ):
        options(params)


def test_no_place_is_mounted_twice(place: Path) -> None:
    given = options(folder=str(place))  # the data folder is that of mlflow.db, too
    targets = [one["Target"] for one in given["mounts"]]
    assert len(targets) == len(set(targets))
    assert mounts(given)[str(place)] is True


def test_what_the_shell_says_reaches_the_steps(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    said = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
        "MLFLOW_TRACKING_USERNAME": "ann",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
        "OMP_NUM_THREADS": "3",
        "NO_PROXY": "localhost",
    }
    for name, value in {**said, "GRAFT_KFP_TOKEN": "secret", "EDITOR": "vi"}.items():
        monkeypatch.setenv(name, value)
    got = environment(ID)
    assert got.items() >= said.items()
    assert got["GRAFT_RUN"] == str(place / "runs" / "1")
    assert got["GRAFT_HOME"] == str(place / ".graft")
    assert got["GRAFT_IMAGE"] == ID  # what a step keeps for reuse is of this image's code
    assert not {"GRAFT_KFP_TOKEN", "EDITOR", "HOME", "PATH"} & set(got)


def test_credentials_and_certificates_in_files_come_along_and_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = [tmp_path / "home" / ".aws" / "credentials", tmp_path / "ca.pem"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    given = options(folder="s3://bucket/data")
    assert given["environment"]["AWS_SHARED_CREDENTIALS_FILE"] == str(files[0])
    assert "AWS_CONFIG_FILE" not in given["environment"]
    assert [mounts(given)[str(file)] for file in files] == [False, False]


def test_weights_fetched_earlier_are_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "home" / ".cache" / "torch"
    assert "TORCH_HOME" not in environment(ID)
    cache.mkdir(parents=True)
    assert environment(ID)["TORCH_HOME"] == str(cache)
    assert mounts(options())[str(cache)] is True
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert mounts(options())[str(tmp_path / "hub")] is True


def test_a_container_can_do_no_more_than_its_step_needs() -> None:
    given = options()
    assert given["user"] == f"{os.getuid()}:{os.getgid()}"
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges"]
    assert not given.get("privileged")
    assert "device_requests" not in given
    local.DockerRunner(**given)  # kfp refuses what it does not know


def test_an_engine_without_roots_rights_shows_the_user_as_root() -> None:
    assert options(SecurityOptions=["name=seccomp,profile=default", "name=rootless"])["user"] == "0:0"


def test_selinux_asks_for_no_labels() -> None:
    assert "label=disable" in options(SecurityOptions=["name=selinux"])["security_opt"]


def test_gpus_come_along_where_the_engine_knows_them() -> None:
    (request,) = options(Runtimes={"runc": {}, "nvidia": {}})["device_requests"]
    assert request["Capabilities"] == [["gpu"]]
    assert request["Count"] == -1


@given(st.text(max_size=300).filter(lambda text: "\0" not in text and text.isprintable()))
def test_any_value_of_a_variable_is_taken(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_RUN_NAME", value * 20)
        assert environment(ID)["MLFLOW_RUN_NAME"] == value * 20
        assert all(
            path.is_file() or path.is_dir() for path in files_to_read(Params(), str(Path.cwd() / "data"))
        )


def test_every_step_has_the_image_and_the_dag_stays_the_same() -> None:
    other, plain = pipeline_with("graft-python:abc").pipeline_spec, retraining.pipeline_spec
    executors = [value["container"] for value in other.deployment_spec["executors"].values()]
    assert len(executors) == len(STEPS)
    assert {container["image"] for container in executors} == {"graft-python:abc"}
    assert other.root == plain.root
    assert other.components == plain.components
    before = {value["container"]["image"] for value in plain.deployment_spec["executors"].values()}
    assert "graft-python:abc" not in before


class Container:
    """One that behaves as told: `gone`, `killed`, `interrupted`, `works`."""

    def __init__(self, engine: Engine, behaviour: str, given: dict[str, Any]) -> None:
        self.engine, self.behaviour, self.given = engine, behaviour, given

    def logs(self, stream: bool) -> Iterator[bytes]:
        assert stream
        self.engine.running.append(self)
        yield "▸ beginning\n".encode()
        if self.behaviour == "interrupted":
            raise KeyboardInterrupt
        self.engine.running.remove(self)

    def wait(self) -> dict[str, int]:
        if self.behaviour == "gone":
            raise docker.errors.NotFound("No such container")
        return {"StatusCode": 137 if self.behaviour == "killed" else 0}

    def stop(self, timeout: float) -> None:
        assert 0 < timeout < 60
        self.engine.running.remove(self)
        self.engine.stopped.append(self)


class Engine:
    """What of docker's client is used, with one image."""

    def __init__(self, behaviour: str, labels: dict[str, str] | None = None) -> None:
        self.behaviour = behaviour
        self.image = SimpleNamespace(
            id=ID, tags=[IMAGE], attrs={"RepoDigests": []}, labels=labels or {}, name=IMAGE
        )
        self.images = SimpleNamespace(get=self.get, list=lambda: [self.image], pull=self.pull)
        self.containers = SimpleNamespace(run=self.run, list=self.list)
        self.started: list[dict[str, Any]] = []
        self.running: list[Container] = []
        self.stopped: list[Container] = []

    def get(self, name: str) -> SimpleNamespace:
        if name not in (IMAGE, IMAGE.partition(":")[0], ID):
            raise docker.errors.ImageNotFound("404 Client Error", explanation=f"No such image: {name}")
        return self.image

    def pull(self, name: str) -> None:
        raise AssertionError(f"{name} was pulled")

    def run(self, **given: Any) -> Container:
        self.started.append(given)
        return Container(self, self.behaviour, given)

    def list(self, filters: dict[str, str]) -> list[Container]:
        label, _, value = filters["label"].partition("=")
        return [one for one in self.running if one.given["labels"].get(label) == value]

    def info(self) -> dict[str, Any]:
        return PLAIN

    def close(self) -> None: ...


def with_engine(monkeypatch: pytest.MonkeyPatch, behaviour: str, **more: Any) -> Engine:
    engine = Engine(behaviour, **more)
    monkeypatch.setattr(docker, "from_env", lambda: engine)
    return engine


def summary(place: Path) -> dict[str, Any]:
    return json.loads((place / "runs" / "latest" / "summary.json").read_text())


@pytest.mark.parametrize("behaviour", ["gone", "killed"])
def test_a_container_that_leaves_nothing_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, place: Path, behaviour: str
) -> None:
    engine = with_engine(monkeypatch, behaviour)
    with pytest.raises(GraftError, match=r"data-validation[^\n]*\n  fix: read .*log\.txt"):
        retrain(Params(), str(place / "data"), image=IMAGE)
    assert len(engine.started) == 1
    assert engine.started[0]["image"] == IMAGE
    assert summary(place)["status"] == "failed"
    assert "▸ beginning" in (place / "runs" / "latest" / "log.txt").read_text()


def test_ctrl_c_stops_the_container(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    engine = with_engine(monkeypatch, "interrupted")
    with pytest.raises(KeyboardInterrupt):
        retrain(Params(), str(place / "data"), image=IMAGE)
    assert len(engine.stopped) == 1
    assert not engine.running
    assert summary(place)["status"] == "interrupted"
    assert engine.started[0]["labels"] == {RUN: summary(place)["run"]}
    assert engine.started[0]["stop_signal"] == "SIGINT"


@pytest.mark.parametrize("named", ["graft-python", ID])
def test_another_name_of_the_image_is_not_pulled(
    monkeypatch: pytest.MonkeyPatch, place: Path, named: str
) -> None:
    engine = with_engine(monkeypatch, "killed")
    with pytest.raises(GraftError):
        retrain(Params(), str(place / "data"), image=named)
    assert engine.started[0]["image"] == IMAGE


def command(place: Path, *more: str) -> Any:
    place.joinpath("params.yaml").write_text("{}")
    return CliRunner().invoke(graft, ["retrain", "--data", str(place / "data"), *more])


def test_without_the_image_the_fix_is_to_build_it(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    engine = with_engine(monkeypatch, "works")
    done = command(place, "--runner", "docker", "--image", "other:1")
    assert isinstance(done.exception, GraftError)
    assert str(done.exception).startswith(
        "the image 'other:1' is not on this machine: No such image: other:1"
    )
    assert "make images" in done.exception.fix
    assert not engine.started


def test_the_image_of_the_cluster_is_the_default(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    with_engine(monkeypatch, "works")
    done = command(place, "--runner", "docker", "--set", "cluster.image=registry.example.org/graft-python:1")
    assert "registry.example.org/graft-python:1" in str(done.exception)


@pytest.mark.parametrize("address", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9"])
def test_without_an_engine_the_fix_is_to_install_one(
    monkeypatch: pytest.MonkeyPatch, place: Path, address: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    done = command(place, "--runner", "docker")
    assert isinstance(done.exception, GraftError)
    assert done.exception.problem.startswith("no Docker engine answers: ")
    assert "--runner subprocess" in done.exception.fix
    assert summary(place)["status"] == "failed"


def test_an_engine_that_is_someone_elses_asks_for_the_group(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    def refuse() -> None:
        raise docker.errors.DockerException("PermissionError(13, 'Permission denied')")

    monkeypatch.setattr(docker, "from_env", refuse)
    assert "usermod -aG docker" in command(place, "--runner", "docker").exception.fix


def test_an_image_without_containers_is_a_mistake(place: Path) -> None:
    done = command(place, "--image", IMAGE)
    assert done.exit_code == 2
    assert "--runner docker" in done.output


@pytest.mark.parametrize(
    ("built", "here", "said"),
    [("a" * 40, "b" * 40, True), ("a" * 40, "a" * 40, False), ("a" * 40, "unknown", False)],
)
def test_an_image_of_another_commit_is_told(
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    built: str,
    here: str,
    said: bool,
) -> None:
    with_engine(monkeypatch, "killed", labels={REVISION: built})
    monkeypatch.setenv("GRAFT_GIT_COMMIT", here)
    with pytest.raises(GraftError):
        retrain(Params(), str(place / "data"), image=IMAGE)
    assert (f"was built from {built}" in capsys.readouterr().out) is said


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run's folder as eight steps leave it."""
    run = tmp_path / "run"
    for step in STEPS:
        write_json(run / "steps" / f"{step}.json", {"status": "succeeded"})
        for name in step_component(step).component_spec.outputs or {}:
            (run / "artifacts" / "retraining-1" / step.replace("_", "-") / name).mkdir(parents=True)
    return run


def test_a_whole_run_passes(finished: Path) -> None:
    hold_to_outputs(finished)


@pytest.mark.parametrize("step", STEPS)
def test_every_output_is_missed(finished: Path, step: str) -> None:
    for name in step_component(step).component_spec.outputs or {}:
        path = finished / "artifacts" / "retraining-1" / step.replace("_", "-") / name
        path.rmdir()
        with pytest.raises(GraftError, match=f"^{step}: its container is gone without {name}\n"):
            hold_to_outputs(finished)
        path.mkdir()


@pytest.mark.parametrize("left", [None, "failed", "interrupted"])
def test_outputs_of_a_step_that_did_not_succeed_are_no_success(finished: Path, left: str | None) -> None:
    record = finished / "steps" / "model_registration.json"
    record.unlink()
    if left:
        write_json(record, {"status": left})
    with pytest.raises(GraftError, match=r"model_registration: .*record of its success"):
        hold_to_outputs(finished)


def test_folders_to_write_are_few(place: Path) -> None:
    shutil.rmtree(place / "data")
    params = read_params([], ["registry.tracking_uri=https://mlflow.example.org"])
    assert folders_to_write(params, place / "runs" / "1") == [place / "runs" / "1", place / ".graft"]
