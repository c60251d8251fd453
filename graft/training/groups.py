"""Which parameters the optimiser moves, how fast, and which of them decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import nn

FUSED = ("cpu", "cuda")  # devices with such a kernel


class _AdamW(torch.optim.AdamW):
    """torch's own without what wraps it for torch's compiler, whose import takes three seconds.

    Nothing is compiled here, and each of these wrappers imports the compiler only to be left out by it.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def same_rate(_name: str) -> float:
    """Every parameter learns at the phase's own rate."""
    return 1.0


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: Callable[[str], float] = same_rate
) -> list[dict[str, Any]]:
    """The trainable parameters, each once, grouped by their factor and by whether they decay.

    Weights decay, but neither biases nor the scales of normalisation layers do (He et al. 2019).

    Args:
        model: A parameter with several names (tied weights) goes by the first, as `named_parameters` does.
        weight_decay: Of what decays.
        rates: Factor on the learning rate of the parameter of that name.

    Returns:
        Groups for a torch optimiser; each carries its `factor` for `set_rate`.

    Raises:
        ValueError: a factor is not a positive number.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_factor(name, rates), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "factor": factor}
        for (factor, decays), parameters in groups.items()
    ]


def adamw(
    model: nn.Module, rate: float, weight_decay: float, rates: Callable[[str], float] = same_rate
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) on `parameter_groups`, in one kernel where torch can."""
    groups = parameter_groups(model, weight_decay, rates)
    fused = all(p.device.type in FUSED and p.is_floating_point() for g in groups for p in g["params"])
    return _AdamW(groups, lr=rate, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def _factor(name: str, rates: Callable[[str], float]) -> float:
    factor = float(rates(name))
    if not (math.isfinite(factor) and factor > 0):
        # Rate zero would still drift BatchNorm's statistics: what must stay is frozen, not slowed to nothing.
        raise ValueError(
            f"the learning rate of {name} has the factor {factor}; freeze() what shall not learn"
        )
    return factor
