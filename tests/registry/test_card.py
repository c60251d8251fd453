"""The model card: complete, literal about names, and short enough for MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from graft.backbones.descriptions import read_model_json
from graft.params import Registry
from graft.registry.card import DESCRIPTION, card, shortened
from graft.registry.registration import register

SECTIONS = [
    "Intended use",
    "Decision",
    "Scores",
    "What these numbers cannot say",
    "Method and backbone",
    "Data",
    "Lineage",
    "Calibration",
    "Classes",
]
LINEAGE = {"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64, "pipeline_run": "monday"}
SHA256 = "d" * 64


def numbers(accuracy: float, classes: list[str]) -> dict[str, Any]:
    per_class = [
        {
            "name": name,
            "precision": 0.9,
            "recall": 0.5 + 0.4 * place / len(classes),
            "recall_low": 0.4,
            "recall_high": 0.95,
            "f1": 0.9,
            "support": 30,
        }
        for place, name in enumerate(classes)
    ]
    return {
        "images": 400,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.04,
        "accuracy_high": accuracy + 0.04,
        "macro_f1": 0.8,
        "calibration_error": 0.061,
        "brier": 0.29,
        "nll": 0.67,
        "parameters": 358698,
        "size_mib": 1.4,
        "latency_ms": 2.3,
        "per_class": per_class,
        "reliability": [[0, 0.0, 0.0], [10, 0.55, 0.6]],
        "held_out": {
            "source val": {"images": 183, "accuracy": 0.99, "accuracy_low": 0.97, "accuracy_high": 1.0}
        },
    }


def facts(classes: list[str], **changes: Any) -> dict[str, Any]:
    """The arguments of `card`."""
    decision = {
        "winner": "adapted",
        "promote": True,
        "champion": {"version": "3", "problem": None},
        "reasons": [{"rule": "gain", "passed": True, "text": "+2.0 points against the champion"}],
        "selection": {"reason": "chosen by accuracy on 120 validation images"},
        "limits": ["another seed gives another model."],
        "notes": ["The champion was registered from other data."],
        "data_md5": "a" * 32,
    }
    backbone = {
        "name": "digits_cnn",
        "provider": "graft",
        "weights": "pretrain",
        "sha256": SHA256,
        "preprocessing": {"input_size": 32},
    }
    model = {"backbone": backbone, "method": "dann", "weights_sha256": "e" * 64, "classes": classes}
    table = {
        "classes": classes,
        "counts": {"source": {"train": 817, "val": 183}, "target": {"test": 400, "unlabeled": 1188}},
        "data_md5": "a" * 32,
    }
    candidates = {"probe": numbers(0.6, classes), "adapted": numbers(0.78, classes)}
    scores = {"candidates": candidates, "champion": numbers(0.75, classes)}
    whole = {"model": model, "decision": decision, "scores": scores, "table": table, "lineage": LINEAGE}
    return {**whole, "params": Registry(model_name="insects"), **changes}


def titles(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.M)


def test_it_holds_what_was_promised() -> None:
    text = card(**facts(["ant", "bee"]))
    assert text.startswith("# insects\n")
    assert titles(text) == SECTIONS
    for said in (
        "Not for images of another kind",
        "Promoted, in place of version 3.",
        "- passed · +2.0 points against the champion",
        "| **adapted** | 78.0 % | 74.0 to 82.0 |",
        "| champion | 75.0 % |",
        "| source val | 183 | 99.0 % | 97.0 to 100.0 |",
        "- The winner was chosen by accuracy on 120 validation images.",
        "- another seed gives another model.",
        "- The champion was registered from other data.",
        "- method: dann",
        "- backbone: digits\\_cnn (graft), 32 x 32 pixels",
        "- backbone's weights: pretrain",
        f"- their sha256: {SHA256}",
        "- 2 classes: ant, bee",
        "| target | 0 | 0 | 400 | 1188 |",
        "- git commit: c0ffee",
        f"- sha256 of the parameters: {'b' * 64}",
        f"- sha256 of the weights: {'e' * 64}",
        "- run: monday",
        "Expected calibration error 0.061",
        "| 10 | 55.0 % | 60.0 % |",
        "| ant | 30 | 50.0 % | 40.0 to 95.0 | 90.0 % |",
    ):
        assert said in text


def test_a_refused_challenger_says_why() -> None:
    values = facts(["ant", "bee"])
    failed = {"rule": "gain", "passed": False, "text": "-1.0 points"}
    values["decision"] |= {"promote": False, "reasons": [failed], "champion": None}
    text = card(**values)
    assert "Not promoted." in text
    assert "- **failed** · -1.0 points" in text


def test_the_intended_use_is_a_parameter() -> None:
    params = Registry(model_name="insects", intended_use="Counting ants\n\n# in gardens.")
    assert "Counting ants \\# in gardens." in card(**facts(["ant"], params=params))


def test_of_many_classes_the_least_recognised_are_listed() -> None:
    text = card(**facts([f"kind {n}" for n in range(100)]))
    assert "The 40 of 100 classes that are recognised least." in text
    assert "| kind 39 |" in text
    assert "| kind 40 |" not in text


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5, unique=True))
@settings(deadline=None, max_examples=60)
def test_names_cannot_become_markup_or_break_a_table(names: list[str]) -> None:
    text = card(**facts(names))
    assert titles(text) == SECTIONS
    assert not re.search(r"<(?!$)", text)
    *_, classes = text.split("## Classes")
    rows = [line for line in classes.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(names)
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 6 for row in rows)


@given(st.integers(1, 60), st.integers(120, DESCRIPTION))
@settings(deadline=None, max_examples=40)
def test_shortened_it_keeps_whole_sections_and_the_limit(classes: int, limit: int) -> None:
    text = card(**facts([f"class number {n}" for n in range(classes)]))
    short = shortened(text, limit)
    assert len(short) <= limit
    assert titles(short) == SECTIONS[: len(titles(short))]
    if len(text) <= limit:
        assert short == text
    else:
        assert "model_card.md" in short
        body = short[: short.index("\n\nShortened")]
        assert text.startswith(body)
        assert text[len(body) :].startswith("\n")  # cut between sections


@pytest.fixture
def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri)


def test_a_version_carries_its_card(
    registry: Registry, candidate: Callable[..., Path], client: MlflowClient
) -> None:
    winner = candidate()
    classes = [f"kind of insect number {n}" for n in range(100)]
    text = card(**facts(classes, model=read_model_json(winner)))
    assert len(text) > DESCRIPTION
    decision = {"winner": "probe", "promote": True}
    result = register(winner, decision, registry, lineage=LINEAGE, metrics={}, card=text)
    stored = client.get_model_version("insects", "1").description
    assert stored == shortened(text)
    folder = client.download_artifacts(result["run_id"], "model_card.md")
    assert Path(folder).read_text(encoding="utf-8") == text


def test_a_card_that_a_crash_kept_from_the_version_comes_with_the_next_attempt(
    registry: Registry,
    candidate: Callable[..., Path],
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("pulled the plug")

    def enter() -> dict[str, Any]:
        decision = {"winner": "probe", "promote": True}
        return register(candidate(), decision, registry, lineage=LINEAGE, metrics={}, card="# insects\n")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "update_model_version", crash)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            enter()
    assert "champion" not in client.get_registered_model("insects").aliases
    assert enter()["reused"]
    assert client.get_model_version("insects", "1").description == "# insects\n"
