"""A classifier with its streams of both domains."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graft.adaptation.domains import Domains, load_domains
from graft.backbones.classifier import Classifier
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.params import Augmentation, DomainAdaptation
from tests.methods.learning import classifier

PARAMS = DomainAdaptation(epochs=2, batch_size=8, target_epochs=1)


@pytest.fixture
def student(table: ImageTable) -> Callable[..., tuple[Classifier, Domains]]:
    """Makes a small classifier in eval mode and its streams, from this table or another."""

    def make(images: ImageTable = table, params: DomainAdaptation = PARAMS) -> tuple[Classifier, Domains]:
        model = classifier(images).eval()
        drawn = policy(Augmentation(), model.config.preprocessing)
        return model, load_domains(images, model, drawn, params)

    return make
