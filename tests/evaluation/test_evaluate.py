"""Evaluation from folders to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.backbones.descriptions import write_skipped
from graft.errors import GraftError
from graft.evaluation.candidates import Champion
from graft.evaluation.evaluate import evaluate
from graft.images.table import ImageTable
from graft.params import Evaluation

EASY = Evaluation(min_accuracy=0.4, max_calibration_error=1.0, worst_errors=4, bootstrap=500)
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, table: ImageTable, outputs: dict[str, Path]) -> Run:
    """Save models as candidates and evaluate them; None is a step that skipped."""

    def evaluated(
        models: dict[str, Classifier | None], champion: Champion | None = None, params: Evaluation = EASY
    ) -> dict[str, Any]:
        for name, model in models.items():
            if model is None:
                write_skipped(tmp_path / name, "one domain")
            else:
                save_classifier(model, tmp_path / name, method="test")
        folders = {name: tmp_path / name for name in models}
        return evaluate(table.path, folders, champion, params, **outputs)

    return evaluated


def sha256_of(folder: Path) -> str:
    return json.loads((folder / "model.json").read_text())["weights_sha256"]


def test_the_better_candidate_wins_and_becomes_the_first_champion(
    run: Run, good: Classifier, poor: Classifier, outputs: dict[str, Path], tmp_path: Path
) -> None:
    decided = run({"probe": poor, "fine_tuned": good, "adapted": None})
    assert decided == json.loads(outputs["decision"].read_text())
    assert decided["winner"] == "fine_tuned"
    assert decided["promote"] is True
    assert [reason["rule"] for reason in decided["reasons"]] == [
        "champion_absent",
        "min_accuracy",
        "calibration",
        "latency",
    ]
    assert decided["champion"] is None
    assert decided["skipped"] == {"adapted": "one domain"}
    assert decided["data_md5"] == "0123456789abcdef0123456789abcdef"
    best, worst = decided["candidates"]["fine_tuned"], decided["candidates"]["probe"]
    assert best["accuracy_low"] < best["accuracy"] < best["accuracy_high"]
    assert best["accuracy"] > worst["accuracy"] + 0.2
    assert best["images"] == 90
    assert best["parameters"] > 1000
    assert best["latency_ms"] > 0
    assert load_classifier(outputs["winner"]).classes == good.classes
    assert sha256_of(outputs["winner"]) == sha256_of(tmp_path / "fine_tuned")


def test_few_validation_images_let_the_test_images_choose_and_it_is_said(
    run: Run, good: Classifier, poor: Classifier
) -> None:
    chosen = run({"probe": poor, "fine_tuned": good})["selection"]
    assert (chosen["split"], chosen["images"]) == ("test", 90)
    assert "12 labelled validation images of the target and 100 are needed" in chosen["reason"]
    assert chosen["optimism"] >= 0


def test_predictions_are_kept_per_image_and_agree_with_the_scores(
    run: Run, good: Classifier, poor: Classifier, outputs: dict[str, Path], table: ImageTable
) -> None:
    decided = run({"probe": poor, "fine_tuned": good})
    file = pq.read_table(outputs["predictions"])
    assert json.loads(file.schema.metadata[b"classes"]) == list(table.classes)
    rows = file.to_pandas()
    columns = ["sha256", "path", "domain", "label", "predicted", "probability", "candidate", "probabilities"]
    assert list(rows.columns) == columns
    assert len(rows) == 2 * 90
    assert set(rows["domain"]) == {"target"}
    accuracy = (rows["label"] == rows["predicted"]).groupby(rows["candidate"]).mean()
    for name, numbers in decided["candidates"].items():
        assert accuracy[name] == pytest.approx(numbers["accuracy"])
    assert np.allclose(np.stack(rows["probabilities"].tolist()).sum(axis=1), 1, atol=1e-4)
    first = rows[rows["candidate"] == "fine_tuned"].reset_index(drop=True)
    second = rows[rows["candidate"] == "probe"].reset_index(drop=True)
    assert first["sha256"].equals(second["sha256"])  # the same images in the same order: paired


def test_scores_cover_every_held_out_set(
    run: Run, good: Classifier, outputs: dict[str, Path], table: ImageTable
) -> None:
    run({"fine_tuned": good})
    scores = json.loads(outputs["scores"].read_text())["candidates"]["fine_tuned"]
    assert {key: part["images"] for key, part in scores["held_out"].items()} == {
        "target test": 90,
        "target val": 12,
        "source val": 40,
    }
    assert [row["name"] for row in scores["per_class"]] == list(table.classes)
    assert np.trace(scores["confusion"]) / 90 == pytest.approx(scores["accuracy"])


def test_documents_get_the_report_and_a_table_for_plots(
    run: Run, good: Classifier, outputs: dict[str, Path]
) -> None:
    decided = run({"fine_tuned": good})
    assert (outputs["docs"] / "report.html").read_bytes() == outputs["report"].read_bytes()
    answers = pd.read_csv(outputs["docs"] / "confusion.csv")
    right = (answers["actual"] == answers["predicted"]).mean()
    assert right == pytest.approx(decided["candidates"]["fine_tuned"]["accuracy"])


def test_a_better_challenger_replaces_the_champion_and_a_worse_one_does_not(
    run: Run, good: Classifier, poor: Classifier, outputs: dict[str, Path]
) -> None:
    lenient = EASY.model_copy(update={"max_class_drop": 1.0})  # the source domain falls
    up = run({"fine_tuned": good}, Champion("3", poor), lenient)
    assert up["promote"] is True
    assert up["champion"] == {"version": "3", "problem": None}
    assert up["comparison"]["difference"] > 0.2
    rows = pd.read_parquet(outputs["predictions"])
    assert set(rows["candidate"]) == {"fine_tuned", "champion"}
    down = run({"fine_tuned": poor}, Champion("4", good))
    assert down["promote"] is False
    assert down["comparison"]["difference"] == pytest.approx(-up["comparison"]["difference"])


def test_a_challenger_that_forgets_the_source_is_refused(
    run: Run, good: Classifier, poor: Classifier
) -> None:
    decided = run({"fine_tuned": good}, Champion("3", poor))
    rules = {reason["rule"]: reason for reason in decided["reasons"]}
    assert rules["gain"]["passed"]
    assert not rules["domain_drop"]["passed"]
    assert "domain 'source' falls most" in rules["domain_drop"]["text"]
    assert (
        "of 40 held-out images" in rules["domain_drop"]["text"]
    )  # validation: the source has no test images
    assert decided["promote"] is False


def test_a_champion_of_other_data_is_scored_again_on_todays_images(
    run: Run, good: Classifier, poor: Classifier
) -> None:
    same, other = (
        run({"fine_tuned": good}, Champion("3", poor, data_md5=md5))
        for md5 in ("0123456789abcdef0123456789abcdef", "f" * 32)
    )
    assert not any("other data" in note for note in same["notes"])
    (said,) = [note for note in other["notes"] if "other data" in note]
    assert f"registered from other data (md5 {'f' * 32})" in said
    assert "scored again on today's 90 test images" in said
    assert other["comparison"] == same["comparison"]  # nothing but today's images is compared


def test_an_unreadable_champion_of_other_data_was_not_scored(run: Run, good: Classifier) -> None:
    decided = run({"fine_tuned": good}, Champion("3", None, "gone", data_md5="f" * 32))
    (said,) = [note for note in decided["notes"] if "other data" in note]
    assert "scored" not in said


def test_test_images_that_chose_among_several_share_the_level(
    run: Run, good: Classifier, poor: Classifier
) -> None:
    decided = run({"fine_tuned": good, "probe": poor, "adapted": None}, Champion("3", poor))
    (rule,) = [reason for reason in decided["reasons"] if reason["rule"] == "beyond_chance"]
    assert rule["limit"] == pytest.approx(0.025 / 2)
    assert "shared by the 2 candidates" in rule["text"]


def test_the_champion_again_is_not_promoted(run: Run, good: Classifier, tmp_path: Path) -> None:
    save_classifier(good, tmp_path / "served", method="test")
    champion = Champion(
        "3", load_classifier(tmp_path / "served"), weights_sha256=sha256_of(tmp_path / "served")
    )
    decided = run({"fine_tuned": good}, champion)
    assert decided["promote"] is False
    assert [reason["text"] for reason in decided["reasons"] if "already champion" in reason["text"]]


def test_an_unreadable_champion_leaves_absolute_limits_and_a_note(run: Run, good: Classifier) -> None:
    decided = run({"fine_tuned": good}, Champion("9", None, "the server answers 404"))
    assert decided["promote"] is True
    assert decided["comparison"] is None
    assert decided["champion"]["problem"] == "the server answers 404"
    assert "champion_unreadable" in [reason["rule"] for reason in decided["reasons"]]
    assert "version 9 cannot be used (the server answers 404)" in decided["reasons"][0]["text"]


def test_a_champion_that_answers_nonsense_counts_as_unreadable(
    run: Run, good: Classifier, poor: Classifier
) -> None:
    broken = with_nan(poor)
    decided = run({"fine_tuned": good}, Champion("9", broken))
    assert decided["promote"] is True
    assert "not finite" in decided["champion"]["problem"]


def test_a_champion_without_a_new_class(
    run: Run, table: ImageTable, build_classifier: Callable[..., Classifier]
) -> None:
    old = build_classifier(table, "target", 60, table.classes[:2])
    new = build_classifier(table, "target", 60)
    decided = run({"fine_tuned": new}, Champion("2", old))
    notes = " ".join(decided["notes"])
    assert f"does not know the class {table.classes[2]!r}: 30 test images" in notes
    assert "On the 60 test images of classes that both know" in notes
    assert decided["promote"] is True


def test_a_champion_with_a_removed_class_is_aligned_by_name(
    run: Run, good: Classifier, table: ImageTable, outputs: dict[str, Path]
) -> None:
    old = widened(good, "aardvark")  # the same answers under other positions
    decided = run({"fine_tuned": good}, Champion("2", old))
    assert decided["comparison"]["difference"] == 0
    assert any("also knows the class 'aardvark'" in note for note in decided["notes"])
    scores = json.loads(outputs["scores"].read_text())
    assert scores["champion"]["accuracy"] == scores["candidates"]["fine_tuned"]["accuracy"]
    assert scores["classes"] == [*table.classes, "aardvark"]


def test_a_winning_baseline_is_called_negative_transfer(run: Run, good: Classifier, poor: Classifier) -> None:
    decided = run({"probe": poor, "scratch": good})
    assert decided["winner"] == "scratch"
    assert "The baseline wins" in decided["notes"][0]
    assert any("probe is worse than training from scratch" in note for note in decided["notes"])


def test_a_diverged_candidate_is_left_out_with_its_reason(
    run: Run, good: Classifier, poor: Classifier
) -> None:
    decided = run({"probe": good, "fine_tuned": with_nan(poor)})
    assert list(decided["candidates"]) == ["probe"]
    assert "training diverged" in decided["skipped"]["fine_tuned"]


def test_the_same_inputs_decide_the_same(run: Run, good: Classifier, poor: Classifier) -> None:
    def without_times(decided: dict[str, Any]) -> dict[str, Any]:
        for numbers in decided["candidates"].values():
            numbers.pop("latency_ms")
        return {**decided, "reasons": [r for r in decided["reasons"] if r["rule"] != "latency"]}

    models: dict[str, Classifier | None] = {"fine_tuned": good}
    first, second = (without_times(run(models, Champion("1", poor))) for _ in range(2))
    assert first == second


def test_all_steps_skipped_is_refused_with_their_reasons(run: Run) -> None:
    with pytest.raises(GraftError, match="adapted: one domain") as caught:
        run({"adapted": None})
    assert "run feature_extraction or fine_tuning" in caught.value.fix


def test_every_candidate_diverged_is_refused(run: Run, poor: Classifier) -> None:
    with pytest.raises(GraftError, match="every candidate diverged: probe") as caught:
        run({"probe": with_nan(poor)})
    assert "learning rate" in caught.value.fix


def test_a_half_written_candidate_is_refused(
    run: Run, good: Classifier, table: ImageTable, outputs: dict[str, Path], tmp_path: Path
) -> None:
    save_classifier(good, tmp_path / "half", method="test")
    (tmp_path / "half" / "model.json").unlink()
    with pytest.raises(GraftError, match="half"):
        evaluate(table.path, {"half": tmp_path / "half"}, None, EASY, **outputs)
    assert not any(path.exists() for path in outputs.values())


def with_nan(model: Classifier) -> Classifier:
    broken = widened(model)
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    return broken


def widened(model: Classifier, *more: str) -> Classifier:
    """The same answers from a classifier that knows more classes, which come first and never win."""
    head = torch.nn.Linear(model.head.in_features, model.head.out_features + len(more))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-1e4)
        head.weight[len(more) :] = model.head.weight
        head.bias[len(more) :] = model.head.bias
    return Classifier(model.trunk, head, config=model.config, classes=[*more, *model.classes]).eval()
