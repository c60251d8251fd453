"""WiSE-FT: between the probed and the fine-tuned model (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def interpolate(model: nn.Module, probe: Mapping[str, Tensor], alpha: float) -> None:
    """theta = (1 - alpha) theta_probe + alpha theta_fine-tuned, in place.

    Of all parameters and of BatchNorm's statistics. What is equal in both stays bit for bit, and so do
    both ends: alpha = 1 leaves the fine-tuned model, 0 gives the probe. Counters, which have no
    between, are the fine-tuned model's unless alpha = 0.

    Args:
        model: Fine-tuned.
        probe: The state of the same model before.
        alpha: In [0, 1].
    """
    for name, tuned in model.state_dict().items():
        before = probe[name].to(tuned.device)
        if tuned.is_floating_point():
            # lerp computes from the nearer end, which makes the ends exact.
            tuned.copy_(torch.lerp(before, tuned, alpha))
        elif alpha == 0:
            tuned.copy_(before)
