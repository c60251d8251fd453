"""Deep CORAL: features of equal covariance (Sun & Saenko 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from graft.adaptation.domains import Domains, Seen, aligning
from graft.backbones.classifier import Classifier
from graft.params import DomainAdaptation
from graft.training.loop import Loss


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """|C_s - C_t|_F^2 / (4 F^2), C the covariance: (N, F), (M, F) -> ()."""
    difference = covariance(source) - covariance(target)
    return difference.square().sum() / (4 * source.shape[1] ** 2)


def covariance(features: Tensor) -> Tensor:
    """Unbiased: (N, F) -> (F, F)."""
    centred = features - features.mean(0)
    return centred.T @ centred / max(1, len(features) - 1)


def deep_coral(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """L = CE(G_y(f), y) + lambda |C_s - C_t|_F^2 / (4 C^2) over the logits, as in the paper (fc8)."""

    def transfer(seen: Seen, strength: float) -> tuple[Tensor, dict[str, float]]:
        apart = coral_loss(seen.source_logits, seen.target_logits)
        return strength * apart, {"domain_loss": apart.item()}

    return model, aligning(model, domains, transfer, max_lambda=params.max_lambda or 1.0)
