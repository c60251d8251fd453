"""Learning-rate schedules: pure functions of training progress.

Each takes progress p in [0, 1] and gives the factor on the peak learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def cosine(progress: float, *, warmup: float = 0.1) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def one_cycle(progress: float, *, rise: float = 0.3, start: float = 1 / 25, end: float = 1e-5) -> float:
    """Up to the peak, then down to almost nothing, both by half a cosine (Smith & Topin 2018).

    Args:
        progress: p.
        rise: Share of training that goes up.
        start, end: The factor at p = 0 and at p = 1.
    """
    low, along = (start, progress / rise) if progress < rise else (end, (1 - progress) / (1 - rise))
    return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * along))


def constant(_progress: float) -> float:
    """Always the peak."""
    return 1.0


def annealed(progress: float) -> float:
    """(1 + 10 p)^-0.75, the rate of adversarial adaptation (Ganin & Lempitsky 2015)."""
    return (1 + 10 * progress) ** -0.75


def reversal(progress: float, *, gamma: float = 10.0) -> float:
    """lambda_p = 2 / (1 + exp(-gamma p)) - 1: the strength of gradient reversal grows from 0 to 1
    (Ganin & Lempitsky 2015), so that the domain classifier's early noise does not reach the features.
    """
    return 2 / (1 + math.exp(-gamma * progress)) - 1


# Those a user can name; the others belong to one method.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "one_cycle": one_cycle,
    "constant": constant,
}
