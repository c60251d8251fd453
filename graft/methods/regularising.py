"""L2-SP: stay near the pretrained weights (Li, Grandvalet & Davoine 2018)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from graft.backbones.classifier import Classifier
from graft.training.loop import Loss


def l2_sp(loss: Loss, model: Classifier, *, alpha: float, beta: float, new: Collection[str] = ()) -> Loss:
    """loss + alpha/2 ||w_S - w_S0||^2 + beta/2 ||w_N||^2, equation 4 of the paper.

    w_S are the trunk's parameters, with w_S0 their values now; w_N are the head's and those in `new`,
    which have no pretrained values to stay near. Frozen parameters cost and change nothing.

    Args:
        loss: To be regularised.
        model: Its parameters now are where the pull goes.
        alpha, beta: Strengths; the second term takes the place of weight decay.
        new: Names of parameters, within the trunk, that count as w_N.
    """
    trunk = dict(model.trunk.named_parameters())
    start = {name: trunk[name].detach().clone() for name in trunk if name not in new}

    def regularised(step: int) -> tuple[Tensor, dict[str, float]]:
        value, logs = loss(step)
        trunk = dict(model.trunk.named_parameters())
        known = [trunk[name] - start[name] for name in start if trunk[name].requires_grad]
        fresh = [*model.head.parameters(), *(trunk[name] for name in new)]
        return value + alpha / 2 * _squared(known, value) + beta / 2 * _squared(fresh, value), logs

    return regularised


def _squared(tensors: Iterable[Tensor], like: Tensor) -> Tensor:
    """Sum of the squares of all elements."""
    return torch.stack([like.new_zeros(()), *(tensor.square().sum() for tensor in tensors)]).sum()
