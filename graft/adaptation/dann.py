"""DANN: domain-adversarial training of neural networks (Ganin & Lempitsky 2015; Ganin et al. 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.augmentation import policy as make_policy
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.training.batches import Batches
from graft.training.device import best_device
from graft.training.loop import History, Loss, Phase, fit
from graft.training.schedules import annealed, reversal
from graft.training.supervised import (
    accuracy,
    domain_batches,
    draw,
    labelled_index,
    steps_per_epoch,
    validation_index,
    validator,
)


class GradientReversal(torch.autograd.Function):
    """R(x) = x forward, dR/dx = -lambda I backward."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, strength: float) -> Tensor:
        """Pass (N, F) through unchanged."""
        context.strength = strength
        return inputs.view_as(inputs)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Turn the gradient round and scale it by lambda."""
        return -context.strength * gradients[0], None


class Adversary(nn.Module):
    """The classifier under adaptation together with the domain classifier that it must deceive."""

    def __init__(self, classifier: Classifier, hidden: int = 256) -> None:
        super().__init__()
        self.classifier = classifier
        self.domain = nn.Sequential(
            nn.Linear(classifier.config.num_features, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )


def dann_loss(
    model: Adversary,
    source: Batches,
    target: Batches,
    labelled_target: Batches | None,
    *,
    steps: int,
    max_lambda: float,
) -> Loss:
    """L = CE(G_y(f), y) + BCE(G_d(R_lambda(f)), d), lambda growing from 0 with progress.

    Args:
        model: G_f and G_y (the classifier), G_d (the domain classifier).
        source: Labelled batches with d = 1, for both terms.
        target: Batches with d = 0, for the second term; labels are not looked at.
        labelled_target: More batches for the first term, where the target has labels.
        steps: Steps in all, for the schedule.
        max_lambda: The strength of reversal at the end.
    """

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        strength = max_lambda * reversal(step / steps)
        known, labels = draw([source, *([labelled_target] if labelled_target else [])], step)
        unknown, _ = target(step)
        # One pass over both domains: BatchNorm sees the mixture that it will be asked to serve.
        features = model.classifier.trunk(torch.cat([known, unknown]))
        logits = model.classifier.head(features[: len(known)])
        both = torch.cat([features[: source.share], features[len(known) :]])
        domain = model.domain(GradientReversal.apply(both, strength)).squeeze(1).float()
        is_source = (torch.arange(len(both), device=both.device) < source.share).float()
        label_loss = functional.cross_entropy(logits.float(), labels)
        domain_loss = functional.binary_cross_entropy_with_logits(domain, is_source)
        logs = {
            "train_accuracy": accuracy(logits, labels),
            "label_loss": label_loss.item(),
            "domain_loss": domain_loss.item(),
            "domain_accuracy": float(((domain > 0) == (is_source > 0)).float().mean()),
            "lambda": strength,
        }
        return label_loss + domain_loss, logs

    return loss


def dann(
    table: ImageTable, model: Classifier, policy: Policy, params: DomainAdaptation, *, work: Path
) -> tuple[Classifier, History]:
    """Make the features of both domains alike while the labels stay separable, in place.

    The label term sees the labelled training images of both domains in equal shares; the domain term
    sees the source's and all of the target's training images, labelled or not. The last epoch is
    kept, since the schedule is made to end there; validation images are reported, not used.
    """
    torch.manual_seed(params.seed)
    adversary = Adversary(model).to(best_device())
    unlabelled = table.select(split=["train", "unlabeled"], domain="target")
    # Mixing two images of one domain would tell the domain classifier which domain it is.
    unmixed = make_policy(
        policy.params.model_copy(update={"mixup": 0.0, "cutmix": 0.0}), model.config.preprocessing
    )
    streams = [
        domain_batches(
            table,
            index,
            model.config.preprocessing,
            unmixed,
            batch_size=params.batch_size,
            seed=params.seed + offset,
        )
        for offset, index in enumerate(
            [
                labelled_index(table, "train", "source"),
                unlabelled,
                labelled_index(table, "train", "target"),
            ]
        )
    ]
    source, target, labelled_target = (stream[0] if stream else None for stream in streams)
    if source is None or target is None:
        raise GraftError(
            "domain adaptation needs labelled source images and target images in training",
            "add images to data/source/train and data/target/unlabeled",
        )
    steps = steps_per_epoch([source, target])
    phase = Phase(
        name="adapt",
        epochs=params.epochs,
        steps_per_epoch=steps,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        schedule=annealed,
        keep="last",
        seed=params.seed,
    )
    validate = validator(model, table, validation_index(table))
    loss = dann_loss(
        adversary,
        source,
        target,
        labelled_target,
        steps=params.epochs * steps,
        max_lambda=params.max_lambda,
    )
    return model, fit(adversary, loss, phase, work=work, validate=validate)
