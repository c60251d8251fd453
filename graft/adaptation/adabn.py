"""AdaBN: adaptive batch normalisation (Li et al. 2017)."""

from __future__ import annotations

import copy
from typing import Any

from graft.adaptation.domains import check_domains
from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.training.statistics import batch_norms, target_statistics


def adabn(
    table: ImageTable, model: Classifier, params: DomainAdaptation
) -> tuple[Classifier, list[dict[str, Any]]]:
    """Have BatchNorm normalise by the mean and variance of the target's training images.

    No weight changes, and no label is looked at.

    Args:
        table: Where the images are; the test split is never read.
        model: Stays as it is; a copy of it is changed.
        params: The size of batches, and the seed of their order.

    Returns:
        The copy, and one row that says over how many images and layers.

    Raises:
        GraftError: a domain has no images to train on, the target only one, or the trunk has no BatchNorm.
    """
    check_domains(table)
    layers = batch_norms(model.trunk)
    if not layers:
        raise GraftError(
            f"{model.config.name} has no BatchNorm layer, so adabn cannot change anything in it",
            "set domain_adaptation.method to another method, such as coral",
        )
    index = table.select(split=["train", "unlabeled"], domain="target")
    if len(index) < 2:
        raise GraftError(
            "the target has one image to train on, and the spread of one image is not known",
            "add images to data/target/unlabeled",
        )
    made = copy.deepcopy(model)
    preprocessing = model.config.preprocessing
    pixels = load_images(table, index, preprocessing).pixels
    target_statistics(made.trunk, pixels, preprocessing, batch_size=params.batch_size, seed=params.seed)
    return made, [{"phase": "adabn", "images": len(index), "layers": len(layers)}]
