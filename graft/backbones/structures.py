"""Trunks made from trunks, and how they are stored: `BackboneConfig.structure`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from graft.backbones.assembled import Combined, Hybrid, InnerLayers, Layered, Part, Positions, by_position
from graft.backbones.blocks import BLOCKS, new_blocks
from graft.backbones.layers import black, last_with_positions, module_of, outputs
from graft.backbones.trunk import BackboneConfig, Trunk, build
from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing


def rebuild(config: BackboneConfig, seed: int = 0) -> Trunk:
    """The trunk that a config describes, with random weights that depend on the seed only.

    Raises:
        GraftError: the architecture or the structure is not known here.
    """
    structure = config.structure or {}
    kind = structure.get("kind")
    if kind == "combined":
        parts = [BackboneConfig.from_dict(values) for values in structure["parts"]]
        return _side_by_side([(rebuild(part, seed), part) for part in parts])
    trunk, _ = build(config.name, seed=seed, preprocessing=config.preprocessing)
    if kind is None:
        return trunk
    if kind == "layers":
        return Trunk(Layered(trunk.network, structure["layers"]), num_features=config.num_features)
    if kind == "positions":
        return Trunk(Positions(trunk.network, [structure["layer"]]), num_features=config.num_features)
    if kind == "hybrid":
        kept = _kept(trunk, config.name, structure["drop"])
        return _with_blocks(kept, config, structure, seed)
    raise GraftError(f"{config.name} has the structure {kind!r}, unknown to this graft", "update graft")


def layered(trunk: Trunk, config: BackboneConfig, layers: Sequence[str]) -> tuple[Trunk, BackboneConfig]:
    """A trunk whose features are those of several layers, each averaged over positions, joined.

    Args:
        trunk: As its architecture is; its network becomes part of the new one.
        config: Of the trunk.
        layers: Names of modules, or of stages: then what the stage gives, after its normalisation.

    Returns:
        (N, 3, S, S) -> (N, sum of the layers' F), and its config.

    Raises:
        GraftError: a layer is unknown, or gives neither a vector nor a map nor tokens.
    """
    _refuse_structure(config)
    found = outputs(trunk, config)
    names = [module_of(trunk, layer, found) for layer in layers]
    total = sum(by_position(found[name]).shape[2] for name in names)
    config = replace(config, num_features=total, structure={"kind": "layers", "layers": names})
    return Trunk(Layered(trunk.network, names), num_features=total), config


def positions(trunk: Trunk, config: BackboneConfig, layer: str | None = None) -> tuple[Trunk, BackboneConfig]:
    """A trunk whose features are one map or token sequence, not averaged.

    Args:
        trunk: As its architecture is; its network becomes part of the new one.
        config: Of the trunk.
        layer: Name of a module or stage; by default the last module with several positions.

    Returns:
        (N, 3, S, S) -> (N, P * F), position after position, and its config, whose structure says
        P (`positions`) and the layer's name.

    Raises:
        GraftError: the layer is unknown, or no layer has positions.
    """
    _refuse_structure(config)
    found = outputs(trunk, config)
    name = last_with_positions(found, config) if layer is None else module_of(trunk, layer, found)
    _, count, length = by_position(found[name]).shape
    structure = {"kind": "positions", "layer": name, "positions": count}
    config = replace(config, num_features=count * length, structure=structure)
    return Trunk(Positions(trunk.network, [name]), num_features=count * length), config


def hybrid(
    trunk: Trunk, config: BackboneConfig, *, drop: int, blocks: str, count: int, width: int, seed: int
) -> tuple[Trunk, BackboneConfig]:
    """A trunk of pretrained convolutions without their last stages, and of new blocks after them.

    Args:
        trunk: Of an architecture with a sequence `features`; its weights stay in what is kept.
        config: Of the trunk.
        drop: Stages to leave out; of a plain network a stage ends with each max-pooling.
        blocks: "residual" or "inception".
        count: New blocks.
        width: Channels of each; at least 8.
        seed: Of their weights.

    Raises:
        GraftError: the architecture has no such sequence, or fewer stages.
    """
    _refuse_structure(config)
    structure = {"kind": "hybrid", "drop": drop, "blocks": blocks, "count": count, "width": width}
    config = replace(config, num_features=width, structure=structure)
    return _with_blocks(_kept(trunk, config.name, drop), config, structure, seed), config


def plain(trunk: Trunk, config: BackboneConfig) -> tuple[Trunk, BackboneConfig]:
    """The architecture itself again, where inner layers were taken of it; else the same."""
    if not isinstance(trunk.network, InnerLayers):
        return trunk, config
    network = trunk.network.network
    features = black(Trunk(network, num_features=0), config).shape[1]
    config = replace(config, num_features=features, structure=None)
    return Trunk(network, num_features=features), config


def combined(trunks: Sequence[tuple[Trunk, BackboneConfig]]) -> tuple[Trunk, BackboneConfig]:
    """A trunk of several, whose features are joined.

    Images are prepared as the part with the largest input wants them (of several the first), so that
    none sees less than it could. Each part gets the image normalised and resized (bilinear) as it wants
    it. Its features are standardised by the buffers `mean` and `deviation` of
    `trunk.network.parts[i]`, 0 and 1 at first, and divided by the root of their number.

    Args:
        trunks: Two or more with their configs, themselves of any structure.
    """
    configs = [config for _, config in trunks]
    parts = json.loads(json.dumps([config.to_dict() for config in configs]))  # tuples become lists
    config = BackboneConfig(
        name=" + ".join(config.name for config in configs),
        provider="graft",
        num_features=sum(config.num_features for config in configs),
        preprocessing=_largest(configs),
        weights=" + ".join(config.weights for config in configs),
        structure={"kind": "combined", "parts": parts},
    )
    return _side_by_side(trunks), config


def _side_by_side(trunks: Sequence[tuple[Trunk, BackboneConfig]]) -> Trunk:
    given = _largest([config for _, config in trunks])
    parts = [
        Part(trunk, config.num_features, given, config.preprocessing).to(next(trunk.parameters()).device)
        for trunk, config in trunks
    ]
    names = [config.name for _, config in trunks]
    return Trunk(Combined(names, parts), num_features=sum(config.num_features for _, config in trunks))


def _largest(configs: Sequence[BackboneConfig]) -> Preprocessing:
    return max((config.preprocessing for config in configs), key=lambda each: each.input_size)


def _with_blocks(kept: nn.Sequential, config: BackboneConfig, structure: dict[str, Any], seed: int) -> Trunk:
    """New blocks on what is kept of a network."""
    shape = tuple(black(kept, config).shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise GraftError(
            f"{config.name} gives {shape} after the stages that are kept, not a feature map (N, F, H, W)",
            "give a convolutional network such as vgg16, mobilenet_v2 or efficientnet_b0",
        )
    kind, width, count = structure["blocks"], structure["width"], structure["count"]
    if kind not in BLOCKS or width < 8:
        raise GraftError(
            f"hybrid blocks {kind!r} of width {width}", f"give {' or '.join(BLOCKS)}, of width 8 or more"
        )
    new = new_blocks(kind, shape[1], width, count, seed).to(next(kept.parameters()).device)
    return Trunk(Hybrid(kept, new), num_features=width)


def _kept(trunk: Trunk, name: str, drop: int) -> nn.Sequential:
    """The sequence `features` without its last stages."""
    features = getattr(trunk.network, "features", None)
    if not isinstance(features, nn.Sequential):
        raise GraftError(
            f"{name} is not one sequence of convolutions, so its last stages cannot be exchanged",
            "give vgg, alexnet, squeezenet, densenet, mobilenet, efficientnet or convnext",
        )
    starts = _stage_starts(features)
    if drop >= len(starts):
        raise GraftError(
            f"fine_tuning.hybrid.drop is {drop}, but {name} has {len(starts)} stages",
            f"drop {len(starts) - 1} at most",
        )
    end = starts[len(starts) - drop] if drop else len(features)
    kept = list(features.named_children())[:end]
    sequence = nn.Sequential()
    for child, module in kept:  # under their own names
        sequence.add_module(child, module)
    return sequence


def _stage_starts(features: nn.Sequential) -> list[int]:
    """Where each stage begins among the children."""
    plain = not any(list(child.children()) for child in features)
    if plain:  # VGG, AlexNet: a stage ends with its pooling
        ends = [i + 1 for i, child in enumerate(features) if isinstance(child, nn.MaxPool2d)]
        return [0, *(end for end in ends if end < len(features))]
    weighty = [i for i, child in enumerate(features) if any(p.ndim > 1 for p in child.parameters())]
    return [0, *weighty[1:]]


def _refuse_structure(config: BackboneConfig) -> None:
    if config.structure is not None:
        raise GraftError(
            f"{config.name} is already made from another network ({config.structure['kind']})",
            "start from the architecture itself: set backbone.weights to weights of it",
        )
