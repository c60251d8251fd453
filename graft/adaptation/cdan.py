"""CDAN and CDAN+E: adversarial adaptation conditioned on the classifier's answers (Long et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graft.adaptation.adversary import Adversary, domain_loss
from graft.adaptation.certainty import certainty
from graft.adaptation.domains import Domains, Seen, aligning
from graft.adaptation.layer import compared
from graft.backbones.classifier import Classifier
from graft.params import DomainAdaptation
from graft.training.loop import Loss

MOST = 4096  # entries of the outer product; above, it is drawn at random, as in the paper
RANDOM = 1024


class MultilinearMap(nn.Module):
    """T(f, g) = f (x) g, or (R_f f) * (R_g g) / sqrt(d) with fixed random R where the product is large.

    Shape:
        (N, F), (N, C) -> (N, `length`)
    """

    of_features: Tensor
    of_classes: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.random = features * classes > MOST
        self.length = RANDOM if self.random else features * classes
        if self.random:
            self.register_buffer("of_features", torch.randn(features, RANDOM))
            self.register_buffer("of_classes", torch.randn(classes, RANDOM))

    def forward(self, features: Tensor, answers: Tensor) -> Tensor:
        if self.random:
            product: Tensor = (features @ self.of_features) * (answers @ self.of_classes)
            return product / RANDOM**0.5
        return torch.einsum("nf,nc->nfc", features, answers).flatten(1)


class ConditionalAdversary(Adversary):
    """An adversary that sees features, of the length `inputs`, together with answers."""

    def __init__(self, classifier: Classifier, inputs: int) -> None:
        joined = MultilinearMap(inputs, len(classifier.classes))
        super().__init__(classifier, joined.length)
        self.joined = joined


def cdan(
    model: Classifier, domains: Domains, params: DomainAdaptation, *, entropy: bool = False
) -> tuple[nn.Module, Loss]:
    """L = CE(G_y(f), y) + BCE(G_d(R_lambda(T(f, g))), d), g = softmax(G_y(f)) without gradient.

    Args:
        model, domains, params: As of every method.
        entropy: Each image counts 1 + exp(-H(g)) within its domain: easy ones are aligned first (CDAN+E).
    """
    look, length = compared(model, params.layer)
    adversary = ConditionalAdversary(model, length)

    def transfer(seen: Seen, strength: float) -> tuple[Tensor, dict[str, float]]:
        answers = [logits.detach().softmax(1) for logits in (seen.source_logits, seen.target_logits)]
        source, target = (
            adversary.joined(features, each)
            for features, each in zip((seen.source, seen.target), answers, strict=True)
        )
        weights = certainty(torch.cat(answers)) if entropy else None
        return domain_loss(adversary.domain, source, target, strength, weights=weights)

    return adversary, aligning(model, domains, transfer, max_lambda=params.max_lambda or 1.0, look=look)


def cdan_e(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """CDAN with entropy conditioning."""
    return cdan(model, domains, params, entropy=True)
