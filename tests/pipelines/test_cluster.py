"""The compiled pipeline: the same DAG, with what section `cluster` gives each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import components.base
from components.__main__ import STEPS, step_component
from graft.errors import GraftError
from graft.params import Cluster, Params, read_params
from graft.params.cluster import StepsResources
from pipelines.cli import graft
from pipelines.cluster import chosen_image, resources_of
from pipelines.compiling import compile_pipeline

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = "registry.example.org/graft-python@sha256:" + "ab" * 32
VERSION = "dvc+s3://bucket/remote?md5=" + "0" * 32 + ".dir"
ALWAYS_RUN = {"evaluation", "model_registration"}


def with_cluster(*overrides: str) -> Params:
    return read_params([], [f"cluster.{one}" for one in overrides])


def compiled(folder: Path, params: Params, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tasks, executors and what is Kubernetes' own, each by step."""
    compile_pipeline(folder / "p.yaml", params, **{"image": IMAGE, "folder": VERSION, **more})
    documents = list(yaml.safe_load_all((folder / "p.yaml").read_text()))
    platforms = documents[1]["platforms"] if len(documents) > 1 else {}
    own = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    return documents[0], {name.removeprefix("exec-").replace("-", "_"): value for name, value in own.items()}


def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): task for name, task in spec["root"]["dag"]["tasks"].items()}


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    executors = spec["deploymentSpec"]["executors"]
    return {
        name.removeprefix("exec-").replace("-", "_"): value["container"] for name, value in executors.items()
    }


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline as the shipped recipe lays it out."""
    params = read_params([ROOT / "params.yaml", ROOT / "recipes" / "cluster.yaml"])
    return compiled(tmp_path_factory.mktemp("recipe"), params)


def test_the_section_names_the_steps_there_are_and_ships_empty() -> None:
    assert tuple(StepsResources.model_fields) == STEPS
    assert read_params([ROOT / "params.yaml"]).cluster == Cluster()
    assert "cluster" not in Params().sections()


def test_every_edge_of_the_components_signatures_is_there(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, _ = recipe
    made = {name: step for step in STEPS for name in step_component(step).component_spec.outputs or {}}
    assert set(tasks(spec)) == set(STEPS)
    for step, task in tasks(spec).items():
        inputs = step_component(step).component_spec.inputs
        wanted = {name: made[name] for name in inputs if name in made}
        artifacts = task["inputs"].get("artifacts", {})
        sources = {name: value["taskOutputArtifact"] for name, value in artifacts.items()}
        assert {name: one["producerTask"].replace("-", "_") for name, one in sources.items()} == wanted
        assert all(name == one["outputArtifactKey"] for name, one in sources.items())


def test_the_recipe_gives_a_step_its_processors_memory_and_gpus(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    training = containers(recipe[0])["fine_tuning"]["resources"]
    assert training["resourceCpuRequest"] == "4"
    assert training["resourceCpuLimit"] == "8"
    assert training["resourceMemoryRequest"] == "16Gi"
    assert training["resourceMemoryLimit"] == "24Gi"
    assert training["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert training["accelerator"]["resourceCount"] == "1"
    plain = containers(recipe[0])["augmentation"]["resources"]
    assert (plain["resourceCpuRequest"], plain["resourceMemoryLimit"]) == ("1", "4Gi")
    assert "accelerator" not in plain


def test_the_recipe_gives_a_step_its_place_and_shared_memory(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    _, own = recipe
    (shm,) = own["fine_tuning"]["emptyDirMounts"]
    assert (shm["mountPath"], shm["medium"], shm["sizeLimit"]) == ("/dev/shm", "Memory", "4Gi")
    assert own["fine_tuning"]["nodeSelector"]["labels"] == {"accelerator": "nvidia"}
    (toleration,) = own["fine_tuning"]["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert not {"emptyDirMounts", "nodeSelector", "tolerations"} & set(own["augmentation"])


def test_the_recipe_gives_every_step_its_credentials_by_reference(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for step in STEPS:
        (secret,) = recipe[1][step]["secretAsEnv"]
        pairs = {one["secretKey"]: one["envVar"] for one in secret["keyToEnv"]}
        assert secret["secretName"] == "graft-s3"
        assert pairs == {"access-key": "AWS_ACCESS_KEY_ID", "secret-key": "AWS_SECRET_ACCESS_KEY"}
        (config_map,) = recipe[1][step]["configMapAsEnv"]
        variables = {one["envVar"] for one in config_map["keyToEnv"]}
        assert variables == {"MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "GRAFT_HOME"}


def test_the_recipe_gives_claims_and_ephemeral_volumes(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    own = recipe[1]["data_validation"]
    (claim,) = own["pvcMount"]
    assert (claim["constant"], claim["mountPath"]) == ("graft-home", "/graft")
    (volume,) = own["genericEphemeralVolume"]
    assert (volume["size"], volume["storageClassName"], volume["mountPath"]) == (
        "20Gi",
        "standard",
        "/scratch",
    )
    assert volume["accessModes"] == ["ReadWriteOnce"]
    assert "genericEphemeralVolume" not in recipe[1]["backbone"]


def test_the_recipe_gives_time_and_retries_with_back_off(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec, own = recipe
    assert own["fine_tuning"]["activeDeadlineSeconds"] == "43200"
    assert own["evaluation"]["activeDeadlineSeconds"] == "7200"
    for task in tasks(spec).values():
        assert task["retryPolicy"] == {
            "maxRetryCount": 2,
            "backoffDuration": "30s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "3600s",
        }


def test_whole_secrets_and_config_maps_are_folders(tmp_path: Path) -> None:
    params = with_cluster(
        "steps.backbone.secrets=[{name: key, mount_path: /keys}]",
        "steps.backbone.config_maps=[{name: ca, mount_path: /certificates}]",
        "steps.backbone.volumes=[{pvc: weights, mount_path: /weights, sub_path: imagenet}]",
    )
    _, own = compiled(tmp_path, params)
    assert own["backbone"]["secretAsVolume"][0]["mountPath"] == "/keys"
    assert own["backbone"]["configMapAsVolume"][0]["mountPath"] == "/certificates"
    assert own["backbone"]["pvcMount"][0]["subPath"] == "imagenet"
    assert set(own) == {"backbone"}


def test_every_step_runs_the_image_named_by_its_digest(
    recipe: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for container in containers(recipe[0]).values():
        assert container["image"] == IMAGE
        assert {"name": "GRAFT_IMAGE", "value": IMAGE} in container["env"]
    for step in STEPS:  # what the local runner imports is as it was
        assert step_component(step).component_spec.implementation.container.image == components.base.IMAGE


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    params = read_params([ROOT / "params.yaml", ROOT / "recipes" / "cluster.yaml"])
    for name in ("a.yaml", "b.yaml"):
        compile_pipeline(tmp_path / name, params, image=IMAGE, folder=VERSION)
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_defaults_and_step_that_contradict_each_other_are_named() -> None:
    params = with_cluster("defaults.cpu.request=4", "steps.backbone.cpu.limit=2")
    assert resources_of(params, "augmentation").cpu.request == "4"
    with pytest.raises(GraftError, match=r"defaults and steps.backbone together: cpu.*request 4 is above"):
        resources_of(params, "backbone")


def test_the_image_is_the_option_else_the_section_else_the_environment() -> None:
    params = with_cluster(f"image={IMAGE}")
    assert chosen_image(params, "other") == "other"
    assert chosen_image(params) == IMAGE
    assert chosen_image(Params()) == components.base.IMAGE


def run_compile(tmp_path: Path, *options: str) -> Any:
    (tmp_path / "params.yaml").write_text("fine_tuning: {epochs: 3}\n")
    arguments = [
        "compile",
        "-o",
        str(tmp_path / "p.yaml"),
        "--params",
        str(tmp_path / "params.yaml"),
        *options,
    ]
    return CliRunner().invoke(graft, arguments)


def test_the_command_takes_a_digest_or_says_how_to_name_one(tmp_path: Path) -> None:
    refused = run_compile(tmp_path, "--image", "graft-python:1")
    assert isinstance(refused.exception, GraftError)
    assert "'graft-python:1' is named by a tag" in refused.exception.problem
    assert "--allow-tag" in refused.exception.fix
    assert not (tmp_path / "p.yaml").exists()
    allowed = run_compile(tmp_path, "--image", "graft-python:1", "--allow-tag")
    assert "Kubeflow's cache: off" in allowed.output
    done = run_compile(tmp_path, "--image", IMAGE, "--data", VERSION)
    assert "augmentation, backbone, data-validation, domain-adaptation" in done.output
    spec = next(iter(yaml.safe_load_all((tmp_path / "p.yaml").read_text())))
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["folder"]["defaultValue"] == VERSION
    assert parameters["fine_tuning"]["defaultValue"]["epochs"] == 3
    assert set(parameters) == {*Params().sections(), "folder", "lineage"}


def test_feature_extraction_fans_out_over_shards(tmp_path: Path) -> None:
    params = read_params(
        [ROOT / "params.yaml", ROOT / "recipes" / "cluster.yaml"],
        [
            "cluster.feature_shards=3",
            "feature_extraction.store=s3://features/shared",
            "cluster.steps.feature_extraction.accelerator.count=1",
        ],
    )
    spec, own = compiled(tmp_path, params)
    found = tasks(spec)
    shards = {name: task for name, task in found.items() if name.startswith("feature_shard")}
    assert len(shards) == 3
    numbers = [task["inputs"]["parameters"]["number"]["runtimeValue"]["constant"] for task in shards.values()]
    assert sorted(numbers) == [0, 1, 2]
    for name, task in shards.items():
        assert task["dependentTasks"] == ["augmentation", "backbone", "data-validation"]
        assert task["inputs"]["parameters"]["count"]["runtimeValue"]["constant"] == 3
        assert task["inputs"]["parameters"]["feature_extraction"] == {
            "componentInputParameter": "feature_extraction"
        }
        resources = containers(spec)[name]["resources"]
        assert resources == containers(spec)["feature_extraction"]["resources"]
        assert own[name] == own["feature_extraction"]
    waits = set(found["feature_extraction"]["dependentTasks"])
    assert {name.replace("_", "-") for name in shards} <= waits


def test_shards_need_a_store_in_common(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"feature_extraction.store names no place"):
        compiled(tmp_path, with_cluster("feature_shards=2"))
