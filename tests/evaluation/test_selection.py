"""Which images choose the winner, and which judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.backbones.classifier import Classifier, save_classifier
from graft.errors import GraftError
from graft.evaluation.evaluate import evaluate
from graft.evaluation.findings import select
from graft.evaluation.predictions import align, held_out, predict, union
from graft.images.table import ImageTable
from graft.params import Evaluation

Tables = Callable[..., ImageTable]
Classifiers = Callable[..., Classifier]


@pytest.fixture(scope="module")
def one_domain(build_table: Tables, tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    counts = {("", "train"): 30, ("", "val"): 100, ("", "test"): 45}
    return build_table(tmp_path_factory.mktemp("one") / "images", counts)


def test_enough_validation_images_choose_and_test_images_only_judge(
    one_domain: ImageTable, build_classifier: Classifiers
) -> None:
    params = Evaluation(bootstrap=100)
    models = {name: build_classifier(one_domain, "", n) for name, n in (("few", 6), ("many", 30))}
    predictions = predict(models, one_domain, batch_size=64)
    chosen = select(["few", "many"], predictions, one_domain, params)
    assert (chosen.split, chosen.images, chosen.optimism) == ("val", 100, 0.0)
    val = predictions.part("", "val")
    best = max(models, key=lambda name: val.right(name).mean())
    assert chosen.winner == best
    # Turning the test images' answers round changes nothing.
    test = (predictions.rows["split"] == "test").to_numpy()
    for values in predictions.probabilities.values():
        values[test] = values[test][:, ::-1]
    assert select(["few", "many"], predictions, one_domain, params) == chosen


def test_one_domain_needs_no_source(
    one_domain: ImageTable, build_classifier: Classifiers, tmp_path: Path, outputs: dict[str, Path]
) -> None:
    save_classifier(build_classifier(one_domain, "", 30), tmp_path / "probe", method="probe")
    decided = evaluate(one_domain.path, {"probe": tmp_path / "probe"}, None, Evaluation(), **outputs)
    assert decided["candidates"]["probe"]["images"] == 45
    assert "Features of both domains" not in outputs["report"].read_text()


def test_a_table_without_test_images_is_refused(
    build_table: Tables, build_classifier: Classifiers, tmp_path: Path, outputs: dict[str, Path]
) -> None:
    table = build_table(tmp_path / "images", {("", "train"): 12, ("", "val"): 6})
    save_classifier(build_classifier(table, "", 12), tmp_path / "probe", method="probe")
    with pytest.raises(GraftError, match="no labelled test image") as caught:
        evaluate(table.path, {"probe": tmp_path / "probe"}, None, Evaluation(), **outputs)
    assert "test_fraction" in caught.value.fix
    assert not outputs["decision"].exists()


def test_source_test_images_alone_judge_nothing(build_table: Tables, tmp_path: Path) -> None:
    counts = {("source", "test"): 6, ("target", "train"): 6}
    with pytest.raises(GraftError, match="domain 'target'"):
        held_out(build_table(tmp_path / "images", counts))


def test_models_of_other_input_sizes_see_the_same_images(
    one_domain: ImageTable, build_classifier: Classifiers
) -> None:
    model, other = (build_classifier(one_domain, "", 30) for _ in range(2))
    larger = replace(other.config.preprocessing, resize_size=36)
    other.config = replace(other.config, preprocessing=larger)
    found = predict({"model": model, "other": other}, one_domain, batch_size=64)
    assert found.probabilities["model"].shape == found.probabilities["other"].shape == (145, 3)
    assert not np.allclose(found.probabilities["model"], found.probabilities["other"])
    alone = predict({"other": other}, one_domain, batch_size=16)
    assert alone.probabilities["other"] == pytest.approx(found.probabilities["other"], abs=1e-4)


def test_classes_are_aligned_by_name() -> None:
    wanted = union([["a", "b"], ["c", "b"]])
    assert wanted == ("a", "b", "c")
    aligned: Any = align(np.array([[0.3, 0.7]], np.float32), ["c", "b"], wanted)
    assert aligned.tolist() == [[0.0, pytest.approx(0.7), pytest.approx(0.3)]]
