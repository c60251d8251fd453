"""DAN: deep adaptation networks, by the maximum mean discrepancy of several kernels (Long et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graft.adaptation.domains import Domains, Seen, aligning
from graft.adaptation.layer import compared
from graft.backbones.classifier import Classifier
from graft.params import DomainAdaptation
from graft.training.loop import Loss

WIDTHS = (-3, -2, -1, 0, 1)  # powers of two, times the mean squared distance


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """MK-MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t), k the mean of Gaussian kernels.

    Kernel i is exp(-|x - y|^2 / (2^i d)), d the mean squared distance of all pairs, which has no
    gradient. Gretton et al. 2012. Not negative; zero for a sample with itself.

    Args:
        source: (N, F).
        target: (M, F).
    """
    both = torch.cat([source, target])
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clamp_min(0)
    width = distances.detach().mean().clamp_min(1e-12)
    kernel = torch.stack([(-distances / (2.0**power * width)).exp() for power in WIDTHS]).mean(0)
    sign = torch.cat(
        [source.new_full((len(source),), 1 / len(source)), -target.new_ones(len(target)) / len(target)]
    )
    return sign @ kernel @ sign


def dan(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """L = CE(G_y(f), y) + lambda (MMD(f_s, f_t) + MMD(g_s, g_t)).

    f is what the layer gives where domains are compared, g the answers; by default the last two layers.
    """
    look, _ = compared(model, params.layer)

    def transfer(seen: Seen, strength: float) -> tuple[Tensor, dict[str, float]]:
        apart = mmd(seen.source, seen.target)
        apart = apart + mmd(seen.source_logits.softmax(1), seen.target_logits.softmax(1))
        return strength * apart, {"domain_loss": apart.item()}

    return model, aligning(model, domains, transfer, max_lambda=params.max_lambda or 1.0, look=look)
