"""A domain classifier, and features that must deceive it (Ganin & Lempitsky 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.classifier import Classifier


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
    """The classifier under adaptation together with the domain classifier that it must deceive.

    Args:
        classifier: G_f and G_y.
        inputs: Length of what the domain classifier G_d is given.
        hidden: Units of its one hidden layer.
    """

    def __init__(self, classifier: Classifier, inputs: int, hidden: int = 256) -> None:
        super().__init__()
        self.classifier = classifier
        self.domain = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def domain_loss(
    classifier: nn.Module, source: Tensor, target: Tensor, strength: float, *, weights: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """BCE(G_d(R_lambda(h)), d) with d = 1 for the source: the mean of both domains' means.

    Args:
        classifier: G_d, (N, H) -> (N, 1).
        source: (N, H).
        target: (M, H).
        strength: lambda.
        weights: (N + M,), how much each image counts within its domain; None: all alike.

    Returns:
        The loss, log 2 where G_d is only guessing, and with it G_d's accuracy.
    """
    logits = classifier(GradientReversal.apply(torch.cat([source, target]), strength)).squeeze(1).float()
    is_source = (torch.arange(len(logits), device=logits.device) < len(source)).float()
    each = functional.binary_cross_entropy_with_logits(logits, is_source, reduction="none")
    weights = torch.ones_like(each) if weights is None else weights
    parts = [
        (each * weights * domain).sum() / (weights * domain).sum() for domain in (is_source, 1 - is_source)
    ]
    loss = (parts[0] + parts[1]) / 2
    right = ((logits > 0) == (is_source > 0)).float().mean()
    return loss, {"domain_loss": loss.item(), "domain_accuracy": right.item()}
