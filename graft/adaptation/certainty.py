"""How sure a classifier is."""

from __future__ import annotations

from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """H(p) = -sum_c p_c log p_c in nats: (N, C) -> (N,)."""
    return -(probabilities * probabilities.clamp_min(1e-8).log()).sum(1)


def certainty(probabilities: Tensor) -> Tensor:
    """1 + exp(-H(p)): from a little over 1 for an unsure answer to 2 for a sure one, (N, C) -> (N,)."""
    return 1 + (-entropy(probabilities)).exp()
