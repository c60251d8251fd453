"""What Kubeflow's cache may answer for, and what it compares."""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.__main__ import STEPS
from graft.errors import GraftError
from graft.params import Params, read_params
from graft.steps.pinning import loose_names, names_content
from graft.steps.running import run_step
from pipelines.cluster import cached, has_digest
from tests.pipelines.test_cluster import IMAGE, ROOT, VERSION, compiled, containers, tasks, with_cluster

ALWAYS_RUN = {"evaluation", "model_registration"}


def caching(spec: dict[str, Any]) -> set[str]:
    return {step for step, task in tasks(spec).items() if task["cachingOptions"].get("enableCache")}


def fingerprints(spec: dict[str, Any]) -> dict[str, str]:
    """What Kubeflow's driver hashes of each task, but for the ids of input artifacts."""
    found = {}
    values = spec["root"]["inputDefinitions"]["parameters"]
    for step, task in tasks(spec).items():
        container = containers(spec)[step]
        taken = {
            name: values[source["componentInputParameter"]].get("defaultValue")
            for name, source in task["inputs"].get("parameters", {}).items()
        }
        parts = [container["image"], container["command"], container["args"], taken]
        found[step] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return found


def test_a_changed_parameter_changes_the_fingerprint_of_its_step_alone(tmp_path: Path) -> None:
    before = fingerprints(compiled(tmp_path, Params())[0])
    for override, step in {
        "fine_tuning.epochs=3": "fine_tuning",
        "data.min_side=9": "data_validation",
    }.items():
        after = fingerprints(compiled(tmp_path, read_params([], [override]))[0])
        changed = {step for step in STEPS if after[step] != before[step]}
        assert changed == {step, "model_registration"}  # registration takes all parameters, as lineage


def test_resources_change_no_fingerprint_and_another_image_changes_all(tmp_path: Path) -> None:
    before = fingerprints(compiled(tmp_path, Params())[0])
    params = with_cluster("defaults.cpu.request=2", "defaults.timeout_seconds=60", "defaults.shm=1Gi")
    assert fingerprints(compiled(tmp_path, params)[0]) == before
    other = fingerprints(compiled(tmp_path, Params(), image=IMAGE.replace("ab", "cd"))[0])
    assert all(other[step] != before[step] for step in STEPS)


def test_what_may_be_cached_is_and_no_key_replaces_the_fingerprint(tmp_path: Path) -> None:
    params = read_params([ROOT / "params.yaml", ROOT / "recipes" / "cluster.yaml"])
    spec, _ = compiled(tmp_path, params)
    assert caching(spec) == set(STEPS) - ALWAYS_RUN
    assert not any("cacheKey" in task["cachingOptions"] for task in tasks(spec).values())
    for step, container in containers(spec).items():
        assert ({"name": "GRAFT_KFP_CACHE", "value": "on"} in container["env"]) == (step in caching(spec))


@pytest.mark.parametrize(
    ("overrides", "image", "folder", "off"),
    [
        ([], "graft-python:1.2", VERSION, set(STEPS)),
        ([], IMAGE, None, {"data_validation"}),
        ([], IMAGE, "s3://bucket/data", {"data_validation"}),
        ([], IMAGE, f"s3://bucket/data?md5={'0' * 32}", {"data_validation"}),  # here it is part of a name
        (["backbone.weights=DEFAULT"], IMAGE, VERSION, {"backbone"}),
        (["backbone.weights=DEFAULT", "backbone.sha256=abcdef01"], IMAGE, VERSION, set()),
        (["fine_tuning.distill.teacher=models:/a@champion"], IMAGE, VERSION, {"fine_tuning"}),
        (["domain_adaptation.pace.networks=[{name: resnet18}]"], IMAGE, VERSION, {"domain_adaptation"}),
        (["cluster.steps.augmentation.caching=false"], IMAGE, VERSION, {"augmentation"}),
        (["cluster.defaults.caching=false"], IMAGE, VERSION, set(STEPS)),
        (["cluster.defaults.caching=true"], IMAGE, VERSION, set()),
    ],
)
def test_the_cache_is_off_where_it_could_be_stale(
    overrides: list[str], image: str, folder: str | None, off: set[str]
) -> None:
    params = read_params([], overrides)
    assert {step for step in STEPS if not cached(params, step, image, folder)} == off | ALWAYS_RUN


@pytest.mark.parametrize(
    ("step", "image", "message"),
    [
        ("evaluation", IMAGE, r"steps.evaluation.caching is on, but the step asks the model registry"),
        (
            "augmentation",
            "graft-python:1",
            r"but the image 'graft-python:1' is named by a tag.*\n  fix: name",
        ),
        ("data_validation", IMAGE, r"but the data is named at run time\n  fix: give --data with the md5"),
    ],
)
def test_caching_asked_for_where_it_would_be_stale_is_refused(step: str, image: str, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        cached(with_cluster(f"steps.{step}.caching=true"), step, image, None)


def call(name: str, tmp_path: Path, *, reusable: bool = True, **settings: Any) -> None:
    run_step(
        name,
        lambda: lambda **_: (tmp_path / "out").write_text("made"),
        settings=settings,
        inputs={"folder": str(settings.pop("folder"))} if "folder" in settings else {},
        outputs={"out": str(tmp_path / "out")},
        reusable=reusable,
    )


@pytest.mark.parametrize(
    ("step", "more"),
    [
        ("data_validation", {"folder": "data"}),
        ("backbone", {"backbone": {"weights": "DEFAULT"}}),
        ("fine_tuning", {"fine_tuning": {"combine": {"networks": [{"weights": "s3://b/w.pth"}]}}}),
        ("evaluation", {"reusable": False}),
    ],
)
def test_a_run_with_arguments_that_the_cache_was_not_made_for_fails(
    step: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes them by hand in Kubeflow's page would otherwise be answered with old outputs."""
    call(step, tmp_path, **more)  # without Kubeflow's cache all is well
    (tmp_path / "out").unlink()
    monkeypatch.setenv("GRAFT_KFP_CACHE", "on")
    with pytest.raises(GraftError, match=rf"{step} runs with Kubeflow's cache on, but .* may be another"):
        call(step, tmp_path, **more)
    assert not (tmp_path / "out").exists()
    call("backbone", tmp_path, backbone={"weights": "DEFAULT", "sha256": "abcdef01"})


@given(
    st.text(string.hexdigits.lower(), min_size=1, max_size=70), st.sampled_from(["@sha256:", ":", "@md5:"])
)
def test_only_a_whole_sha256_is_a_digest(text: str, separator: str) -> None:
    digits = text.strip(string.ascii_letters.replace("abcdef", "")) or "a"
    expected = separator == "@sha256:" and len(digits) == 64 and set(digits) <= set("0123456789abcdef")
    assert has_digest(f"host:5000/graft-python{separator}{digits}") == expected
    assert has_digest("graft-python@sha256:" + "0f" * 32)


def test_names_of_content() -> None:
    assert names_content(VERSION)
    assert not names_content("/data?md5=" + "0" * 32)
    assert list(loose_names({"weights": "pretrain", "teacher": "fine_tuned"})) == []
    assert list(loose_names({"a": [{"weights": "x.pth"}], "teacher": "models:/a@b"})) == [
        "models:/a@b",
        "x.pth",
    ]
