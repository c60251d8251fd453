"""SHOT: source hypothesis transfer, adaptation without a look at the source (Liang et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.adaptation.certainty import entropy
from graft.adaptation.domains import Domains
from graft.backbones.classifier import Classifier
from graft.params import DomainAdaptation
from graft.training.batches import Batches
from graft.training.freezing import freeze
from graft.training.loop import Loss


def information_loss(logits: Tensor) -> Tensor:
    """mean H(p) - H(mean p): every answer sure, all classes in use; (N, C) -> ()."""
    answers = logits.softmax(1)
    return entropy(answers).mean() - entropy(answers.mean(0, keepdim=True))[0]


def pseudo_labels(features: Tensor, answers: Tensor) -> Tensor:
    """The class of the nearest centroid by cosine; the centroids first of the answers, then of that.

    Equations 6 and 7 of the paper. A class that no answer names gets no label.

    Args:
        features: (N, F).
        answers: Probabilities (N, C).

    Returns:
        int64 (N,).
    """
    directions = functional.normalize(features, dim=1)
    named = torch.bincount(answers.argmax(1), minlength=answers.shape[1]) > 0
    members = answers
    for _ in range(2):
        centroids = functional.normalize(members.T @ directions, dim=1)
        likeness = (directions @ centroids.T).masked_fill(~named, -torch.inf)
        members = functional.one_hot(likeness.argmax(1), answers.shape[1]).to(answers.dtype)
    return likeness.argmax(1)


def shot(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """L = mean H(p) - H(mean p) + beta CE(pseudo-labels) on target images; the head stays as it is.

    Pseudo-labels are made anew at the start of each epoch. Labelled target images, where there are any,
    add their cross-entropy; source images are not read, and lambda is not used.
    """
    freeze(model.head)
    found: dict[int, Batches] = {}

    def labelled(step: int) -> Batches:
        epoch = step // domains.steps_per_epoch
        if epoch not in found:
            found.clear()
            found[epoch] = _labelled(model, domains.target)
        return found[epoch]

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        inputs, pseudo = labelled(step)(step)
        extra = domains.labelled_target(step) if domains.labelled_target else None
        logits = model(torch.cat([inputs, extra[0]]) if extra else inputs).float()
        unknown = logits[: len(inputs)]
        information = information_loss(unknown)
        agreement = functional.cross_entropy(unknown, pseudo)
        logs = {"information_loss": information.item(), "pseudo_label_loss": agreement.item()}
        value = information + params.shot.pseudo_labels * agreement
        if extra:
            label_loss = functional.cross_entropy(logits[len(inputs) :], extra[1])
            value = value + label_loss
            logs["label_loss"] = label_loss.item()
        return value, logs

    return model, loss


def _labelled(model: Classifier, target: Batches) -> Batches:
    """The target's stream, its images labelled by `pseudo_labels`."""
    features = model.features_pixels(target.images.pixels)
    with torch.no_grad():
        answers = model.head(features.to(model.device)).float().softmax(1).cpu()
    return replace(target, images=replace(target.images, labels=pseudo_labels(features, answers)))
