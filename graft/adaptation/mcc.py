"""MCC: minimum class confusion (Jin et al. 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from graft.adaptation.certainty import certainty
from graft.adaptation.domains import Domains, Seen, aligning
from graft.backbones.classifier import Classifier
from graft.params import DomainAdaptation
from graft.training.loop import Loss


def confusion_loss(logits: Tensor, temperature: float) -> Tensor:
    """Mean over classes of the share of a class's answers that goes to the others.

    C_jk = sum_i w_i y_ij y_ik with y = softmax(logits / T) and w_i = B (1 + exp(-H(y_i))) / sum, rows
    then divided by their sums: the loss is the sum off the diagonal over the number of classes.

    Args:
        logits: (B, C) of target images.
        temperature: T, against over-confidence.
    """
    answers = (logits / temperature).softmax(1)
    weights = certainty(answers.detach())
    weights = weights * len(weights) / weights.sum()
    confusion = answers.T @ (weights[:, None] * answers)
    confusion = confusion / confusion.sum(1, keepdim=True).clamp_min(1e-8)
    return 1 - confusion.diagonal().mean()


def mcc(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """L = CE(G_y(f), y) + lambda MCC(target): no alignment of domains, only answers that are not torn."""

    def transfer(seen: Seen, strength: float) -> tuple[Tensor, dict[str, float]]:
        confused = confusion_loss(seen.target_logits, params.mcc.temperature)
        return strength * confused, {"confusion": confused.item()}

    return model, aligning(model, domains, transfer, max_lambda=params.max_lambda or 1.0)
