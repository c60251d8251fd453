"""What people use today for domain adaptation, run as its authors teach it: the other side of the table.

    python -m venv PEERS
    PEERS/bin/pip install --no-deps pytorch-adapt==0.0.83 pytorch-metric-learning torchmetrics \\
        lightning-utilities
    PYTHONPATH=FOLDER python benchmarks/adaptation.py --method peer

where FOLDER/sitecustomize.py appends PEERS' site-packages to `sys.path`: after everything else, so that
torch and numpy stay graft's own. Without them these cases are left out, and a line says so.

pytorch-adapt: its MNIST to MNIST-M example. Adam at 0.0001 for each network, a discriminator of two
hidden layers of 256, weight 1 for every loss, no schedule, networks that were trained on the source
before; its other examples leave Adam at 0.001, so both rates are here. Batches are graft's own: the same
images, order, augmentation and, where a setting has one, style of the target. CDAN conditions through 1024
random products, the default.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graft.adaptation.domains import load_domains
from graft.backbones.classifier import Classifier
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.params import DomainAdaptation

Peer = Callable[[ImageTable, Classifier, Policy, DomainAdaptation], None]

HIDDEN = 256  # units of pytorch-adapt's discriminator


def peers() -> dict[str, Peer]:
    """By name; each trains the classifier in place, and its last epoch counts."""
    found: dict[str, Peer] = {}
    for method in ("DANN", "CDAN", "MCC"):
        for rate in (1e-4, 1e-3):
            found[f"peer pytorch-adapt: {method}, rate {rate:g}"] = _pytorch_adapt(method, rate)
    return found


def absent(name: str) -> bool:
    """Whether what a case needs is not installed."""
    return name.startswith("peer ") and importlib.util.find_spec("pytorch_adapt") is None


def _pytorch_adapt(method: str, rate: float) -> Peer:
    def run(table: ImageTable, model: Classifier, policy: Policy, params: DomainAdaptation) -> None:
        torch.manual_seed(params.seed)
        domains = load_domains(table, model, policy, params)
        front, back = _halves(model, params.layer)
        hook, extra = _hook(method, front, back, len(model.classes), rate)
        model.train()
        for step in range(params.epochs * domains.steps_per_epoch):
            source, labels = domains.source(step)
            target, _ = domains.target(step)
            hook(
                {
                    "G": front,
                    "C": back,
                    "src_imgs": source,
                    "src_labels": labels.argmax(1),
                    "src_domain": torch.zeros(len(source)),
                    "target_imgs": target,
                    "target_domain": torch.ones(len(target)),
                    **extra,
                }
            )

    return run


def _halves(model: Classifier, layer: str | None) -> tuple[nn.Module, nn.Module]:
    """G and C of the library: the same network, cut where graft compares the domains."""
    if layer is None:
        return model.trunk, model.head
    net: Any = model.trunk.network
    assert (model.config.name, layer) == ("dann_cnn", "flatten")
    front = [net.conv1, nn.ReLU(), nn.MaxPool2d(2), net.conv2, nn.ReLU(), nn.MaxPool2d(2), net.flatten]
    return nn.Sequential(*front), nn.Sequential(net.dense1, nn.ReLU(), net.dense2, nn.ReLU(), model.head)


def _hook(
    method: str, front: nn.Module, back: nn.Module, classes: int, rate: float
) -> tuple[Callable[..., Any], dict[str, nn.Module]]:
    """The library's step, and the networks it needs beside G and C."""
    from pytorch_adapt.hooks import CDANHook, ClassifierHook, DANNHook, MCCHook
    from pytorch_adapt.layers import RandomizedDotProduct
    from pytorch_adapt.models import Discriminator

    def adam(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=rate)

    own = [adam(front), adam(back)]
    if method == "MCC":
        return ClassifierHook(opts=own, post=[MCCHook()]), {}
    features = next(layer.in_features for layer in back.modules() if isinstance(layer, nn.Linear))
    if method == "DANN":
        discriminator = Discriminator(in_size=features, h=HIDDEN)
        return DANNHook([*own, adam(discriminator)]), {"D": discriminator}
    combiner = RandomizedDotProduct([features, classes])
    discriminator = Discriminator(in_size=combiner.out_dim, h=HIDDEN)
    hook = CDANHook(g_opts=own, d_opts=[adam(discriminator)])
    return hook, {"D": discriminator, "feature_combiner": combiner}
