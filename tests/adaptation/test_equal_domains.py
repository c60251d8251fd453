"""Where the target is the source, nothing that can be measured changes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from graft.adaptation import CLOSED, TRAINED, adapt
from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy, policy
from graft.images.loading import load_images
from graft.images.table import ImageTable, read_table
from graft.images.validation import validate
from graft.methods import train
from graft.params import Augmentation, Data, DomainAdaptation, FineTuning
from tests.conftest import SHAPES, draw_shape
from tests.methods.learning import classifier

MEASURABLE = 0.03  # of 240 test images: two standard errors at 95 %


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Three shapes, drawn alike in both domains; the target's labels are known in its test split alone."""
    folder, rng = tmp_path_factory.mktemp("equal"), np.random.default_rng(1)
    parts = {"source/train": 40, "source/val": 15, "target/unlabeled": 40, "target/test": 80}
    for part, count in parts.items():
        for shape in SHAPES:
            place = folder / part / ("" if part.endswith("unlabeled") else shape)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw_shape(shape, rng, target=False).save(place / f"{shape}{number}.png")
    # Shapes at few places look alike by nature: here that is no fault of the data.
    validate(
        folder, Data(max_duplicate_fraction=1.0, max_leak_fraction=1.0), folder / "images", folder / "docs"
    )
    return read_table(folder / "images")


def drawn(model: Classifier) -> Policy:
    return policy(Augmentation(mixup=0.0), model.config.preprocessing)


def accuracy(model: Classifier, table: ImageTable) -> float:
    test = load_images(table, table.select(split="test", domain="target"), model.config.preprocessing)
    return float((model.predict_pixels(test.pixels).argmax(1) == test.labels.numpy()).mean())


@pytest.fixture(scope="module")
def start(equal: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    model = classifier(equal)
    params = FineTuning(method="scratch", baseline_epochs=6, batch_size=16)
    return train(equal, model, drawn(model), params, work=tmp_path_factory.mktemp("start"))[0]


@pytest.mark.parametrize("method", [*TRAINED, *CLOSED])
def test_nothing_measurable_changes(
    equal: ImageTable, start: Classifier, tmp_path: Path, method: str
) -> None:
    before = accuracy(start, equal)
    assert before > 0.8  # there is something to lose
    params = DomainAdaptation.model_validate({"method": method, "epochs": 2, "batch_size": 16})
    made = adapt(equal, copy.deepcopy(start), drawn(start), params, work=tmp_path)
    assert accuracy(made.model, equal) >= before - MEASURABLE
    assert made.account["distance"]["before"] < 0.5  # of at most 2: nobody can tell the domains apart
