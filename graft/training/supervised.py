"""Learning from labelled images: which ones, the loss, and the score that chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.backbones.precision import autocast
from graft.images.augmentation import Policy
from graft.images.loading import load_images, near
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.training.batches import Batches, Stream
from graft.training.device import best_device
from graft.training.loop import Loss, Validate


def labelled_index(table: ImageTable, split: str, domain: str | None = None) -> pd.Index:
    """Rows of one split that carry a label, of one domain or of all."""
    index = table.select(split=split, domain=domain)
    return index[table.rows.loc[index, "label"].to_numpy() >= 0]


def unlabelled_index(table: ImageTable) -> pd.Index:
    """Rows that train without their label: the split "unlabeled", and training images that have none.

    A label that a row of the split "unlabeled" may carry makes no difference.
    """
    index = table.select(split=["train", "unlabeled"])
    rows = table.rows.loc[index]
    return index[((rows["split"] == "unlabeled") | (rows["label"] < 0)).to_numpy()]


def validation_index(table: ImageTable) -> pd.Index:
    """The labelled validation images that choose between epochs and strengths.

    The target's where it has any, since the target is what is tested; otherwise all. May be empty:
    then the last epoch is kept, and strengths are chosen by cross-validation on training images.
    """
    target = labelled_index(table, "val", table.target)
    return target if len(target) else labelled_index(table, "val")


def domain_batches(
    table: ImageTable,
    index: pd.Index,
    preprocessing: Preprocessing,
    policy: Policy | None,
    *,
    batch_size: int,
    seed: int,
) -> list[Batches]:
    """One stream of batches per domain among `index`, each with an equal share of `batch_size`.

    An equal share keeps a few labelled target images from drowning in a large source domain.
    """
    domains = table.rows.loc[index, "domain"]
    present = [domain for domain in table.domains if (domains == domain).any()]
    device = best_device()
    return [
        Batches(
            images=near(load_images(table, index[(domains == domain).to_numpy()], preprocessing), device),
            classes=len(table.classes),
            preprocessing=preprocessing,
            policy=policy,
            batch_size=max(1, batch_size // len(present)),
            seed=seed + position,
            device=device,
        )
        for position, domain in enumerate(present)
    ]


def draw(streams: Sequence[Stream], step: int) -> tuple[Tensor, Tensor]:
    """Step i of every stream, as one batch: float (B, 3, S, S) and label probabilities (B, C)."""
    inputs, targets = zip(*(batches(step) for batches in streams), strict=True)
    return torch.cat(inputs).contiguous(memory_format=torch.channels_last), torch.cat(targets)


def cross_entropy(model: Classifier, streams: Sequence[Batches], label_smoothing: float) -> Loss:
    """The loss -sum_c q_c log p_c with smoothed labels q (Szegedy et al. 2016)."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        inputs, targets = draw(streams, step)
        logits = model(inputs)
        value = functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
        return value, {"train_accuracy": accuracy(logits, targets)}

    return loss


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Share of (B, C) logits whose largest entry is the largest of the (B, C) label probabilities."""
    return float((logits.argmax(1) == targets.argmax(1)).float().mean())


def validator(model: Classifier, table: ImageTable, index: pd.Index) -> Validate | None:
    """Accuracy and cross-entropy on these labelled images; None where there are none."""
    if not len(index):
        return None
    images = load_images(table, index, model.config.preprocessing)
    labels = images.labels.numpy()

    def validate() -> dict[str, float]:
        with autocast(model.device):
            probabilities = model.predict_pixels(images.pixels)
        likelihood = probabilities[np.arange(len(labels)), labels]
        return {
            "val_accuracy": float((probabilities.argmax(1) == labels).mean()),
            "val_loss": float(-np.log(np.clip(likelihood, 1e-12, None)).mean()),
        }

    return validate


def steps_per_epoch(streams: Sequence[Stream]) -> int:
    """Enough steps to show the largest stream once."""
    return max(batches.per_epoch for batches in streams)


def supervise(
    model: Classifier,
    table: ImageTable,
    index: pd.Index,
    policy: Policy,
    *,
    batch_size: int,
    label_smoothing: float,
    seed: int,
    validation: pd.Index | None = None,
) -> tuple[Loss, Validate | None, int]:
    """What `fit` needs to teach a classifier the labelled images of a table.

    Args:
        model: The classifier.
        table: Where the images are.
        index: Rows to learn from, all labelled.
        policy: The augmentation.
        batch_size: Of all domains together.
        label_smoothing: Share of the label spread over all classes.
        seed: Of the order of images and of the augmentation.
        validation: Rows that choose the epoch; by default `validation_index`.

    Returns:
        The loss, the validation, and the number of steps in an epoch.
    """
    preprocessing = model.config.preprocessing
    streams = domain_batches(table, index, preprocessing, policy, batch_size=batch_size, seed=seed)
    chosen = validation_index(table) if validation is None else validation
    validate = validator(model, table, chosen)
    return cross_entropy(model, streams, label_smoothing), validate, steps_per_epoch(streams)
