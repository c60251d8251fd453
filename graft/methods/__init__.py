"""The transfer methods: one file each, one signature, one training loop beneath them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from graft.backbones.classifier import Classifier
from graft.backbones.precision import computing_in, in_words
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.hyperrule import plan
from graft.params import FineTuning
from graft.progress import say
from graft.training.device import best_device
from graft.training.loop import History
from graft.training.supervised import labelled_index

Method = Callable[..., tuple[Classifier, History]]

# fine_tuning.method: the module here, and its function of the module's own name.
MODULES = {
    **dict.fromkeys(("head_only", "last_k", "all", "head_then_all", "staged", "normalisation"), "fine_tune"),
    "gradual": "gradual",
    "lora": "lora",
    "hybrid": "hybrid",
    "combine": "combine",
    "multi_task": "multi_task",
    "distill": "distill",
    "semi_supervised": "semi_supervised",
    "scratch": "scratch",
}
# These put a head of their own on the trunk.
KEEP_HEAD = set(MODULES) - {"hybrid", "combine", "scratch"}


def train(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train by the method that `params.method` names.

    Args:
        table: Where the images are; the test split is never read.
        model: The pretrained trunk with the head that a probe found; it may be changed in place.
        policy: The augmentation of training images.
        params: The section `fine_tuning`.
        work: Folder for checkpoints; called again with the same one, a killed run goes on.

    Returns:
        The classifier and one row per epoch of its training.

    Raises:
        GraftError: the method does not apply to this data or network.
    """
    if params.method in KEEP_HEAD and not list(model.head.parameters()):
        raise GraftError(
            f"fine_tuning.method: {params.method} trains the head, "
            f"and {type(model.head).__name__} has no weights",
            "set feature_extraction.head to another one, such as logistic",
        )
    name = MODULES[params.method]
    method: Method = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    with computing_in(params.precision):
        say(f"{params.method}: training in {in_words(best_device())}")
        return method(table, model, _mixed(policy, table, model, params), params, work=work)


def _mixed(policy: Policy, table: ImageTable, model: Classifier, params: FineTuning) -> Policy:
    """The policy with the rule's mixup where augmentation leaves it open."""
    if policy.params.mixup is not None:
        return policy
    images = max(1, len(labelled_index(table, "train")))
    mixup = plan(params, input_size=model.config.preprocessing.input_size, images=images).mixup
    return replace(policy, params=policy.params.model_copy(update={"mixup": mixup}))
