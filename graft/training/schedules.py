"""Learning-rate schedules: pure functions of training progress.

Each takes progress p in [0, 1] and gives the factor on the peak learning rate.
"""

from __future__ import annotations

import math


def cosine(progress: float, *, warmup: float = 0.1) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def annealed(progress: float) -> float:
    """(1 + 10 p)^-0.75, the rate of adversarial adaptation (Ganin & Lempitsky 2015)."""
    return (1 + 10 * progress) ** -0.75


def reversal(progress: float, *, gamma: float = 10.0) -> float:
    """lambda_p = 2 / (1 + exp(-gamma p)) - 1: the strength of gradient reversal grows from 0 to 1
    (Ganin & Lempitsky 2015), so that the domain classifier's early noise does not reach the features.
    """
    return 2 / (1 + math.exp(-gamma * progress)) - 1
