"""graft's image in a real Docker engine, and the whole chain in its containers.

Where an engine answers: GRAFT_TEST_DOCKER=1 builds the image first (BASE, INDEX, TORCH_INDEX and NETWORK are
those of `make images`), GRAFT_TEST_IMAGE names one that was built from this code. With neither the tests are
skipped: building takes minutes and gigabytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines.container_options import RUN
from tests.pipelines.conftest import ROOT, TINY, Checkout

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

TIMED = {"latency_ms", "seconds"}


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    try:
        return docker.from_env()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers here: {str(error).splitlines()[0]}")


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient) -> str:
    if named := os.environ.get("GRAFT_TEST_IMAGE"):
        return named
    if os.environ.get("GRAFT_TEST_DOCKER") != "1":
        pytest.skip(
            "GRAFT_TEST_DOCKER=1 builds graft's image (minutes), GRAFT_TEST_IMAGE=NAME takes one that is"
        )
    built = subprocess.run(["make", "images"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return "graft-python:latest"


def in_image(engine: docker.DockerClient, image: str, *command: str, **more: Any) -> str:
    """What a command prints in a container as a cluster's policy would have it: the image's own user and
    nothing to write to but /tmp."""
    output: bytes = engine.containers.run(
        image,
        list(command),
        remove=True,
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        shm_size="1g",
        **more,
    )
    return output.decode()


def test_its_user_is_not_root_and_its_labels_say_what_it_is(engine: docker.DockerClient, image: str) -> None:
    assert in_image(engine, image, "id", "-u").strip() == "1000"
    assert in_image(engine, image, "graft", "--version").startswith("graft, version ")
    labels = engine.images.get(image).labels
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.version"] in in_image(engine, image, "graft", "--version")


def test_it_holds_what_runs_steps_and_nothing_else(engine: docker.DockerClient, image: str) -> None:
    for absent in ("pip", "pytest", "mypy", "moto"):
        with pytest.raises(docker.errors.ContainerError):
            in_image(engine, image, "python", "-m", absent, "--version")
    with pytest.raises(docker.errors.ContainerError):
        in_image(engine, image, "touch", "/opt/graft/x")
    listed = in_image(engine, image, "find", "/opt/graft/code", "-maxdepth", "1", "-printf", "%f\n").split()
    assert {name for name in listed if "." not in name} == {"bin", "code", "graft", "components", "pipelines"}


def test_its_list_of_parts_is_the_lock(engine: docker.DockerClient, image: str) -> None:
    bill = json.loads(in_image(engine, image, "cat", "/opt/graft/code/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "graft"
    parts = {one["name"].lower(): one["version"].partition("+")[0] for one in bill["components"]}
    lock = re.findall(r"^([\w.-]+)==([^ ;\n]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    locked: dict[str, set[str]] = {}
    for name, version in lock:
        locked.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    parts.pop("graft", None)
    unpinned = {n: v for n, v in parts.items() if v not in locked.get(re.sub(r"[-_.]+", "-", n), set())}
    assert not unpinned
    assert {"torch", "kfp", "mlflow", "boto3"} <= set(parts)
    assert not {"pip", "pytest", "ruff", "moto"} & set(parts)


def test_the_chain_runs_as_its_user_with_nothing_to_write_to_but_tmp(
    engine: docker.DockerClient, image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "params.yaml").chmod(0o644)
    commands = ["import digits data", "retrain --params /params/params.yaml"]
    script = "".join(f"graft {command} && " for command in commands) + "cat runs/latest/summary.json"
    text = in_image(
        engine, image, "sh", "-ec", script, volumes={str(tmp_path): {"bind": "/params", "mode": "ro"}}
    )
    summary = json.loads(text[text.index('{\n  "candidates"') :])
    assert summary["status"] == "succeeded"
    assert summary["registered"]["champion"] is True


@pytest.fixture(scope="module")
def digits(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default data; `image` is asked first so that without one nothing is made."""
    folder = tmp_path_factory.mktemp("digits") / "data"
    subprocess.run([str(Path(sys.executable).parent / "graft"), "import", "digits", str(folder)], check=True)
    return folder


def with_default_params(folder: Path) -> Checkout:
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    return Checkout(folder)


@pytest.fixture(scope="module")
def apart(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The default chain in subprocesses."""
    place = with_default_params(tmp_path_factory.mktemp("subprocesses"))
    done = place.retrain(digits)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def docked(digits: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The default chain in containers."""
    place = with_default_params(tmp_path_factory.mktemp("containers"))
    done = place.retrain(digits, "--runner", "docker", "--image", image)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (place.folder / "first").symlink_to(place.latest.resolve())
    return place


def predictions(run: Path) -> pd.DataFrame:
    frame = pd.read_parquet(next((run / "artifacts").glob("*/*/predictions")))
    return frame.sort_values(["candidate", "path"]).reset_index(drop=True)


def untimed(value: Any) -> Any:
    """Scores without what a clock measured."""
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key not in TIMED}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_containers_and_subprocesses_give_the_same_predictions(apart: Checkout, docked: Checkout) -> None:
    one, other = predictions(apart.latest), predictions(docked.folder / "first")
    same = ["candidate", "path", "sha256", "domain", "label", "predicted"]
    pd.testing.assert_frame_equal(one[same], other[same])
    difference = np.abs(np.stack(one["probabilities"].tolist()) - np.stack(other["probabilities"].tolist()))
    print(f"{len(one)} predictions, largest difference of a probability {difference.max():.1e}")
    assert len(one) > 1000
    assert difference.max() <= 1e-5


def test_containers_and_subprocesses_give_the_same_scores_and_decision(
    apart: Checkout, docked: Checkout
) -> None:
    scores = [
        untimed(json.loads((run / "scores.json").read_text()))
        for run in (apart.latest, docked.folder / "first")
    ]
    assert len(numbers(scores[0])) > 100
    assert numbers(scores[0]) == pytest.approx(numbers(scores[1]), abs=1e-5)
    decisions = [
        json.loads((run / "decision.json").read_text()) for run in (apart.latest, docked.folder / "first")
    ]
    for name in ("winner", "promote", "data_md5"):
        assert decisions[0][name] == decisions[1][name]


def test_nothing_was_made_by_another_user_and_no_container_is_left(
    engine: docker.DockerClient, docked: Checkout
) -> None:
    made = [docked.folder, *docked.folder.rglob("*")]
    assert {path.lstat().st_uid for path in made} == {os.getuid()}
    assert (docked.folder / "mlflow.db").is_file()
    assert not engine.containers.list(all=True, filters={"label": RUN})


def test_ctrl_c_reaches_the_step_and_leaves_no_container(
    engine: docker.DockerClient, docked: Checkout, digits: Path, image: str
) -> None:
    more = ["--runner", "docker", "--image", image, "--set", "fine_tuning.seed=1"]
    process = subprocess.Popen(
        docked.command(digits, *more),
        cwd=docked.folder,
        env=docked.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1/" in line:
            break
    assert len(engine.containers.list(filters={"label": RUN})) == 1
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not engine.containers.list(all=True, filters={"label": RUN})
    assert docked.summary["status"] == "interrupted"
    assert "backbone" in docked.summary["reused"]
    assert json.loads((docked.latest / "steps" / "fine_tuning.json").read_text())["status"] == "interrupted"


def test_a_step_that_fails_in_its_container_says_why(docked: Checkout, image: str, tmp_path: Path) -> None:
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "cat" / "a.png").write_text("not an image")
    done = docked.retrain(tmp_path / "one", "--runner", "docker", "--image", image)
    assert done.returncode == 1
    assert "data_validation: " in done.stderr
    assert "fix:" in done.stderr
    assert docked.summary["status"] == "failed"
