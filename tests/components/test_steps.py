"""The step definitions: one signature, driven by Kubeflow, by DVC and from the command line."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.__main__ import STEPS, step_component, step_parser
from graft.params import Params
from pipelines.compiling import compile_pipeline

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return compile_pipeline(tmp_path_factory.mktemp("compiled") / "retraining.yaml", Params())


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def kubeflow_edges(dag: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(producer, artifact, consumer) of every artifact that flows between tasks."""
    edges = set()
    for consumer, task in dag["root"]["dag"]["tasks"].items():
        for value in task.get("inputs", {}).get("artifacts", {}).values():
            source = value["taskOutputArtifact"]
            edges.add((source["producerTask"], source["outputArtifactKey"], consumer))
    return {(a.replace("-", "_"), b, c.replace("-", "_")) for a, b, c in edges}


def options(stage: dict[str, Any]) -> dict[str, str]:
    words = shlex.split(stage["cmd"])
    return dict(zip((w.removeprefix("--") for w in words[4::2]), words[5::2], strict=True))


def dvc_edges(stages: dict[str, Any]) -> set[tuple[str, str, str]]:
    outputs = {}
    for name, stage in stages.items():
        made = set(step_component(name).component_spec.outputs or {})
        outputs |= {path: (name, key) for key, path in options(stage).items() if key in made}
    return {
        (*outputs[path], name)
        for name, stage in stages.items()
        for key, path in options(stage).items()
        if path in outputs and outputs[path][0] != name
    }


def test_the_dag_and_dvc_have_the_same_steps(dag: dict[str, Any], stages: dict[str, Any]) -> None:
    tasks = {name.replace("-", "_") for name in dag["root"]["dag"]["tasks"]}
    assert tasks == set(stages) == set(STEPS)


def test_the_dag_and_dvc_have_the_same_edges(dag: dict[str, Any], stages: dict[str, Any]) -> None:
    assert kubeflow_edges(dag) == dvc_edges(stages)
    assert ("fine_tuning", "fine_tuned", "domain_adaptation") in kubeflow_edges(dag)


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_declares_all_that_its_command_reads_and_writes(step: str, stages: dict[str, Any]) -> None:
    """An undeclared file would make `dvc repro` reuse stale results."""
    stage, spec = stages[step], step_component(step).component_spec
    given = options(stage)
    metrics = [path for entry in stage.get("metrics", []) for path in entry]
    assert set(stage["outs"] + metrics) == {given[name] for name in spec.outputs}
    assert set(stage["deps"]) == {path for name, path in given.items() if name not in spec.outputs}
    sections = {name for name, value in spec.inputs.items() if value.type in ("Dict", "STRUCT")}
    assert set(stage["params"]) == sections - {"lineage"}


def test_each_task_gets_its_own_section_and_no_other(dag: dict[str, Any]) -> None:
    allowed = {
        "fine_tuning": {"fine_tuning", "registry"},  # it may begin at the champion
        "evaluation": {"evaluation", "registry"},
        "model_registration": {"registry", "lineage"},
    }
    for name, task in dag["root"]["dag"]["tasks"].items():
        step = name.replace("-", "_")
        taken = {
            value["componentInputParameter"]
            for value in task["inputs"].get("parameters", {}).values()
            if "componentInputParameter" in value
        }
        own = {"data", "folder"} if step == "data_validation" else {step}
        assert taken == allowed.get(step, own)


def test_the_compiled_pipeline_installs_nothing_and_carries_no_library_code(dag: dict[str, Any]) -> None:
    executors = dag["deploymentSpec"]["executors"]
    assert len(executors) == 8
    for executor in executors.values():
        command = " ".join(executor["container"]["command"])
        assert "pip install" not in command
        imports = re.findall(r"^\s*(?:from|import) (\S+)", command, re.MULTILINE)
        assert {name for name in imports if name.startswith("graft")}
        assert len(command) < 10_000


def test_every_image_is_the_one_asked_for(dag: dict[str, Any]) -> None:
    images = {e["container"]["image"] for e in dag["deploymentSpec"]["executors"].values()}
    assert images == {"graft-python:latest"}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_options_made_from_its_signature(step: str) -> None:
    spec = step_component(step).component_spec
    known = {action.dest for action in step_parser(step)._actions} - {"help", "params"}
    artifacts = {
        name
        for name, value in {**spec.inputs, **spec.outputs}.items()
        if value.type not in ("Dict", "STRUCT")
    }
    assert known == artifacts


def test_the_command_line_names_the_steps_and_the_fault(tmp_path: Path) -> None:
    def components(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "components", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    unknown = components("fine_tunin")
    assert unknown.returncode == 2
    assert "fine_tuning, domain_adaptation" in unknown.stderr
    paths = ["--images", str(tmp_path / "i"), "--docs", str(tmp_path / "d")]
    missing = components("data_validation", "--folder", str(tmp_path / "nowhere"), *paths)
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    assert "fix:" in missing.stderr
    assert "Traceback" not in missing.stderr
