"""FixMatch: what the network is sure of in a weak view is the label of a strong view (Sohn et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.hyperrule import plan
from graft.methods.regularising import l2_sp
from graft.params import Augmentation, FineTuning
from graft.training.batches import Batches
from graft.training.freezing import keep_statistics, unfreeze
from graft.training.loop import History, Loss, Phase, fit
from graft.training.schedules import SCHEDULES
from graft.training.supervised import (
    accuracy,
    domain_batches,
    draw,
    labelled_index,
    steps_per_epoch,
    unlabelled_index,
    validation_index,
    validator,
)

# The paper's decay. In a short run the average's warm-up (min(decay, (1 + t) / (10 + t)) at step t) is
# what counts: it spans about the last tenth of the steps, so no scaling to the length is needed.
EMA = 0.999


def fixmatch_loss(
    model: Classifier,
    labelled: Sequence[Batches],
    weak: Sequence[Batches],
    strong: Sequence[Batches],
    *,
    threshold: float,
    weight: float,
) -> Loss:
    """L = CE(y, p(x)) + weight * mean_u 1[max q_u >= threshold] CE(argmax q_u, p(strong(u))), q = p(weak(u)).

    The mean is over all unlabelled images u of the batch, confident or not, and no gradient flows
    through q (Sohn et al. 2020, equations 3 and 4). BatchNorm sees labelled and strong views in one
    pass and weak views in another, and its running statistics are of both.

    Args:
        model: The classifier.
        labelled: Streams for the first term.
        weak, strong: The same unlabelled images in the same order, under two policies; their labels
            are not looked at.
        threshold: Probability from which an answer counts.
        weight: Of the unlabelled term.
    """

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        known, labels = draw(labelled, step)
        logits = model(torch.cat([known, draw(strong, step)[0]])).float()
        # After the pass that learns: autocast would hand weights first cast here on without gradient.
        with torch.no_grad():
            confidence, pseudo = model(draw(weak, step)[0]).float().softmax(1).max(1)
        sure = (confidence >= threshold).float()
        supervised = functional.cross_entropy(logits[: len(known)], labels)
        each = functional.cross_entropy(logits[len(known) :], pseudo, reduction="none")
        unsupervised = (sure * each).mean()
        logs = {
            "train_accuracy": accuracy(logits[: len(known)], labels),
            "label_loss": supervised.item(),
            "unlabelled_loss": unsupervised.item(),
            "confident": sure.mean().item(),
        }
        return supervised + weight * unsupervised, logs

    return loss


def semi_supervised(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Fine-tune all layers on labelled and unlabelled training images together, in place.

    An epoch shows the largest set once. What is validated and kept is the average of the weights, as in
    the paper, with the decay `params.ema`, or 0.999 where that is 0. `params.label_smoothing` is not
    used: a network that is taught to stay unsure would never pass the threshold.

    Args:
        table: Where the images are.
        model: A pretrained trunk with the head that a linear probe found.
        policy: The augmentation of labelled images; the strong view exaggerates it.
        params: `semi_supervised` has threshold, weight, and unlabelled images per labelled one.
        work: Folder for checkpoints.

    Raises:
        GraftError: there is no unlabelled image, or no labelled one.
    """
    index = labelled_index(table, "train")
    _check(table, index)
    preprocessing, section = model.config.preprocessing, params.semi_supervised
    chosen = plan(params, input_size=preprocessing.input_size, images=len(index))
    labelled = domain_batches(
        table, index, preprocessing, policy, batch_size=chosen.batch_size, seed=params.seed
    )
    weak = domain_batches(
        table,
        unlabelled_index(table),
        preprocessing,
        replace(policy, params=weak_view(policy.params)),
        batch_size=section.ratio * chosen.batch_size,
        seed=params.seed + len(labelled),
    )
    # The same seed: the same images in the same order.
    strong = [replace(each, policy=replace(policy, params=strong_view(policy.params))) for each in weak]
    loss = fixmatch_loss(model, labelled, weak, strong, threshold=section.threshold, weight=section.weight)
    if params.l2_sp:
        loss = l2_sp(loss, model, alpha=params.l2_sp, beta=params.weight_decay)
    phase = Phase(
        name="semi_supervised",
        epochs=chosen.epochs,
        steps_per_epoch=steps_per_epoch([*labelled, *weak]),
        learning_rate=chosen.learning_rate,
        weight_decay=0.0 if params.l2_sp else params.weight_decay,
        schedule=SCHEDULES[params.schedule],
        patience=params.patience,
        seed=params.seed,
        ema=params.ema or EMA,
    )
    validate = validator(model, table, validation_index(table))
    if chosen.stored:
        keep_statistics(model.trunk)
    history = fit(model, loss, phase, work=work, validate=validate)
    unfreeze(model.trunk)
    return model, history


def weak_view(params: Augmentation) -> Augmentation:
    """A flip, where the policy flips, and a shift: a crop of at least 80 % of the area."""
    return Augmentation(
        flip_horizontal=params.flip_horizontal,
        flip_vertical=params.flip_vertical,
        crop_scale=(0.8, 1.0),
        crop_ratio=(1.0, 1.0),
        rotate=0.0,
        scale=(1.0, 1.0),
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        mixup=0.0,
    )


def strong_view(params: Augmentation) -> Augmentation:
    """The policy about doubled, and at least the colours and distortions that leave most classes whole.

    The paper draws operations by RandAugment or CTAugment; here all of the policy's apply to each image
    with strengths drawn at random. Flips stay as they are, and hue is only doubled, since some classes
    are told by them. Images are not mixed: a pseudo-label belongs to one image.
    """
    p = params
    return p.model_copy(
        update={
            "crop_scale": (p.crop_scale[0] / 2, p.crop_scale[1]),
            "crop_ratio": (p.crop_ratio[0] ** 2, p.crop_ratio[1] ** 2),
            "rotate": min(180.0, max(2 * p.rotate, 15.0)),
            "scale": (min(p.scale[0], 0.8), max(p.scale[1], 1.2)),
            "brightness": max(2 * p.brightness, 0.5),
            "contrast": max(2 * p.contrast, 0.5),
            "saturation": max(2 * p.saturation, 0.5),
            "hue": min(0.5, 2 * p.hue),
            "noise": max(p.noise, 0.05),
            "perspective": max(p.perspective, 0.3),
            "mixup": 0.0,
            "cutmix": 0.0,
        }
    )


def _check(table: ImageTable, labelled: pd.Index) -> None:
    target = "target/" if table.target else ""
    if not len(labelled):
        raise GraftError(
            "fine_tuning.method is semi_supervised, but no training image has a label",
            f"add a few labelled images to data/{target}train/<class>",
        )
    if not len(unlabelled_index(table)):
        raise GraftError(
            "fine_tuning.method is semi_supervised, but the data has no unlabelled image",
            f"put them in data/{target}unlabeled, or set the method to head_then_all",
        )
