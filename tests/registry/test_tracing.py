"""From a model to what made it, and back; and the list of versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from graft.backbones.descriptions import read_model_json
from graft.errors import GraftError
from graft.params import Registry
from graft.registry.registration import register
from graft.registry.tracing import trace_data, trace_model
from graft.registry.versions import list_versions

Enter = Callable[..., dict[str, Any]]
Candidate = Callable[..., Path]


def test_a_model_is_traced_to_what_made_it(registry: Registry, candidate: Candidate) -> None:
    folder = candidate()
    lineage = {
        "data_md5": "a" * 32,
        "git_commit": "c0ffee",
        "params_sha256": "b" * 64,
        "backbone_sha256": "d" * 64,
        "params": {"fine_tuning": {"epochs": 3}},
        "pipeline_run": "monday",
        "step_seconds": {"backbone": 1.5, "probe": 2},
    }
    decision = {"winner": "probe", "promote": True, "reasons": []}
    metrics = {"accuracy.probe": 0.9, "accuracy.adapted": 0.5}
    result = register(folder, decision, registry, lineage=lineage, metrics=metrics)
    facts = trace_model(registry, "insects@champion")
    for form in ("insects/1", "models:/insects/1", "models:/insects@champion"):
        assert trace_model(registry, form) == facts
    assert facts["weights_sha256"] == read_model_json(folder)["weights_sha256"]
    expected = {
        "name": "insects",
        "version": "1",
        "aliases": ["challenger", "champion"],
        "data_md5": "a" * 32,
        "git_commit": "c0ffee",
        "params_sha256": "b" * 64,
        "backbone_sha256": "d" * 64,
        "method": "probe",
        "run_id": result["run_id"],
        "run": "monday",
        "params": {"fine_tuning.epochs": "3"},
        "step_seconds": {"backbone": 1.5, "probe": 2.0},
        "metrics": {"accuracy.adapted": 0.5, "accuracy.probe": 0.9},
        "decision": {"winner": "probe", "promote": True, "reasons": []},
        "origin": {},
        "missing": [],
    }
    assert {key: facts[key] for key in expected} == expected


def test_data_is_traced_to_the_models_that_saw_it(
    registry: Registry, enter: Enter, candidate: Candidate
) -> None:
    enter(candidate(seed=0))
    enter(candidate(seed=1), promote=False)
    enter(candidate(seed=2), data_md5="e" * 32)
    other = registry.model_copy(update={"model_name": "birds"})
    enter(candidate(seed=0), params=other)
    for md5 in ("a" * 32, "a" * 32 + ".dir", "aaaa"):
        found = trace_data(registry, md5)
        assert [(row["name"], row["version"]) for row in found] == [
            ("birds", "1"),
            ("insects", "2"),
            ("insects", "1"),
        ]
    (last,) = trace_data(registry, "e" * 32)
    assert (last["version"], last["aliases"]) == ("3", ["challenger", "champion"])


@pytest.mark.parametrize("md5", ["f" * 32, ""])
def test_data_that_no_model_saw(registry: Registry, enter: Enter, candidate: Candidate, md5: str) -> None:
    enter(candidate())
    with pytest.raises(GraftError, match="no registered version saw") as caught:
        trace_data(registry, md5)
    assert "known are: aaaaaaaaaaaa" in caught.value.fix


BAD = {
    "insects": ("names no version", "NAME@ALIAS"),
    "models:/insects": ("names no version", "NAME@ALIAS"),
    "insects@winner": ("no alias 'winner'", "challenger, champion"),
    "insects/7": ("no version '7'", "there are: 1"),
    "birds@champion": ("no registered model 'birds'", "insects"),
}


@pytest.mark.parametrize("reference", BAD)
def test_a_reference_to_nothing(
    registry: Registry, enter: Enter, candidate: Candidate, reference: str
) -> None:
    enter(candidate())
    problem, fix = BAD[reference]
    with pytest.raises(GraftError, match=problem) as caught:
        trace_model(registry, reference)
    assert fix in caught.value.fix


def test_a_run_that_was_deleted_for_good(registry: Registry, enter: Enter, candidate: Candidate) -> None:
    result = enter(candidate())
    client = MlflowClient(registry.tracking_uri)
    client.delete_run(result["run_id"])
    client._tracking_client.store._hard_delete_run(result["run_id"])
    facts = trace_model(registry, "insects@champion")
    assert facts["missing"] == [f"the run {result['run_id']}"]
    assert facts["data_md5"] == "a" * 32  # the version's own tags tell it


def test_the_list_of_versions(registry: Registry, enter: Enter, candidate: Candidate) -> None:
    enter(candidate(seed=0))
    enter(candidate(seed=1), promote=False, data_md5="e" * 32)
    newest, oldest = list_versions(registry)
    assert (newest["version"], newest["aliases"], newest["data_md5"]) == ("2", ["challenger"], "e" * 32)
    assert (oldest["version"], oldest["aliases"], oldest["accuracy"]) == ("1", ["champion"], 0.9)
    assert 0 <= newest["age_seconds"] <= oldest["age_seconds"] < 300
