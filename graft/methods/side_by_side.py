"""A trunk and further pretrained networks as one trunk, with a linear head on the features of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from graft.backbones import structures, weights
from graft.backbones.assembled import Combined
from graft.backbones.resolution import at_resolution
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.images.table import ImageTable
from graft.params import Backbone, Network
from graft.training.device import best_device


def side_by_side(
    trunk: Trunk, config: BackboneConfig, networks: Sequence[Network], table: ImageTable
) -> tuple[Trunk, BackboneConfig]:
    """The trunk with these networks beside it, on the device of training; its weights are shared.

    Args:
        trunk: The first part; where inner layers are taken of it, without that.
        config: Of the trunk.
        networks: Their weights are had as those of `backbone`.
        table: The size of its images decides the resolution of the further networks.

    Returns:
        (N, 3, S, S) -> (N, sum of F), and its config; see `structures.combined`.

    Raises:
        GraftError: a network is unknown or cannot be had.
    """
    parts = [structures.plain(trunk, config), *(_prepared(each, table) for each in networks)]
    together, its_config = structures.combined(parts)
    return together.to(best_device()), its_config


@torch.no_grad()
def standardise(trunk: Trunk, head: nn.Linear, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Have the parts give standardised features, and a head that was fitted to such take them, in place.

    Args:
        trunk: Of `side_by_side`.
        head: Fitted to (x - mean) / deviation, x what the trunk gives now.
        mean, deviation: (F,) of x.
    """
    assert isinstance(trunk.network, Combined)
    trunk.network.standardise(torch.from_numpy(mean), torch.from_numpy(deviation))
    # A part's features come divided by the root of their number.
    head.weight *= trunk.network.lengths().to(head.weight.device)


def _prepared(network: Network, table: ImageTable) -> tuple[Trunk, BackboneConfig]:
    params = Backbone(name=network.name, weights=network.weights, sha256=network.sha256)
    trunk, config = weights.prepare(params)
    return trunk, at_resolution(trunk, config, input_size=None, short_side=table.short_side)
