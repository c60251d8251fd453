"""DANN: domain-adversarial training of neural networks (Ganin & Lempitsky 2015; Ganin et al. 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from graft.adaptation.adversary import Adversary, domain_loss
from graft.adaptation.domains import Domains, Seen, aligning
from graft.adaptation.layer import compared
from graft.backbones.classifier import Classifier
from graft.params import DomainAdaptation
from graft.training.loop import Loss


def dann(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """L = CE(G_y(f), y) + BCE(G_d(R_lambda(f)), d): features that tell the classes, not the domains."""
    look, length = compared(model, params.layer)
    adversary = Adversary(model, length)

    def transfer(seen: Seen, strength: float) -> tuple[Tensor, dict[str, float]]:
        return domain_loss(adversary.domain, seen.source, seen.target, strength)

    return adversary, aligning(model, domains, transfer, max_lambda=params.max_lambda or 1.0, look=look)
