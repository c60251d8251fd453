"""What a choice without target labels can look at: the classifier's answers to images of both domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from graft.backbones.classifier import Classifier
from graft.backbones.features import extract
from graft.images.loading import Images, load_images
from graft.images.table import ImageTable
from graft.training.supervised import labelled_index

IMAGES = 500  # of each kind at most: enough to rank states, little beside an epoch of training


@dataclass(frozen=True)
class Answers:
    """A classifier's answers to some images.

    Attributes:
        features: float32 (N, F), the trunk's.
        logits: float32 (N, C).
        labels: int64 (N,); -1 where there is none.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """float64 (N, C); every row sums to 1."""
        shifted = self.logits.astype(np.float64) - self.logits.max(1, keepdims=True, initial=-np.inf)
        exponentials = np.exp(shifted)
        shares: np.ndarray = exponentials / exponentials.sum(1, keepdims=True)
        return shares


@dataclass(frozen=True)
class Evidence:
    """Answers of one state of a classifier.

    Attributes:
        learned: To source images that it learned from.
        source: To labelled source images that it did not learn from; where there are none, `learned`.
        target: To the target's training images; their labels are not known here (all -1).
        labelled: To the target's labelled validation images; None where there are none.
    """

    learned: Answers
    source: Answers
    target: Answers
    labelled: Answers | None


@dataclass(frozen=True)
class Witnesses:
    """The images that every state is shown, decoded once."""

    learned: Images
    source: Images
    target: Images
    labelled: Images | None


def call_witnesses(table: ImageTable, model: Classifier, *, seed: int) -> Witnesses:
    """Draw at most `IMAGES` of each kind; the test split is never read."""
    held_out = labelled_index(table, "val", "source")
    learned = labelled_index(table, "train", "source")
    wanted = {
        "learned": learned,
        "source": held_out if len(held_out) else learned,
        "target": table.select(split=["train", "unlabeled"], domain="target"),
        "labelled": labelled_index(table, "val", "target"),
    }
    preprocessing = model.config.preprocessing
    loaded = {kind: load_images(table, _some(index, seed), preprocessing) for kind, index in wanted.items()}
    target = Images(
        loaded["target"].pixels, torch.full_like(loaded["target"].labels, -1), loaded["target"].rows
    )
    labelled = loaded["labelled"] if len(loaded["labelled"]) else None
    return Witnesses(loaded["learned"], loaded["source"], target, labelled)


def hear(model: Classifier, witnesses: Witnesses, batch_size: int = 128) -> Evidence:
    """The model's answers, in eval mode; nothing in it changes."""

    def ask(images: Images) -> Answers:
        features = extract(model.trunk, model.config, images.pixels, batch_size, what="validators")
        training = model.head.training
        model.head.eval()
        with torch.inference_mode():
            logits = model.head(features.to(model.device)).float().cpu()
        model.head.train(training)
        return Answers(features.numpy(), logits.numpy(), images.labels.numpy())

    learned = ask(witnesses.learned)
    source = learned if witnesses.source is witnesses.learned else ask(witnesses.source)
    labelled = ask(witnesses.labelled) if witnesses.labelled is not None else None
    return Evidence(learned, source, ask(witnesses.target), labelled)


def _some(index: pd.Index, seed: int) -> pd.Index:
    if len(index) <= IMAGES:
        return index
    return pd.Index(np.sort(np.random.default_rng(seed).choice(index.to_numpy(), IMAGES, replace=False)))
