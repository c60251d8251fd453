"""What the layers inside a network give, and finding one by its name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graft.backbones.assembled import by_position
from graft.backbones.features import evaluating
from graft.backbones.hooks import hooked
from graft.backbones.stages import LooseTensors, stages
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.errors import GraftError

Outputs = Mapping[str, Tensor]


def outputs(trunk: Trunk, config: BackboneConfig) -> dict[str, Tensor]:
    """What each module of a network gives for one black image, by name, in the order they finish.

    Only tensors of 2 to 4 dimensions that have one entry for the image.
    """
    names = {module: name for name, module in trunk.network.named_modules()}
    found: dict[str, Tensor] = {}

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and 2 <= output.ndim <= 4 and len(output) == 1:
            found.pop(names[module], None)
            found[names[module]] = output

    with hooked(module.register_forward_hook(note) for module in names):
        black(trunk, config)
    return found


@torch.no_grad()
def black(module: nn.Module, config: BackboneConfig) -> Tensor:
    """What a module gives for one black image, in eval mode."""
    size = config.preprocessing.input_size
    with evaluating(module):
        output: Tensor = module(torch.zeros(1, 3, size, size, device=next(module.parameters()).device))
    return output


def module_of(trunk: Trunk, layer: str, found: Outputs, *, asked: str = "feature_extraction.layers") -> str:
    """The module that a layer's name means: of a stage, the last one that runs, after its normalisation.

    Args:
        trunk: The network.
        layer: The name.
        found: What `outputs` gives.
        asked: Where the name was given.

    Raises:
        GraftError: there is none, or it gives no features; the nearest names and the stages are given.
    """
    names = {module: name for name, module in trunk.network.named_modules()}
    split = dict(stages(trunk.network))
    if layer in split:
        stage = split[layer]
        parts = list(stage) if isinstance(stage, nn.ModuleList) else [stage]
        run = [names[part] for part in parts if not isinstance(part, LooseTensors) and names[part] in found]
        if run:
            return run[-1]
    if layer and layer in found:
        return layer
    if layer and layer in names.values():
        raise GraftError(
            f"{asked}: {layer!r} gives no features: neither a vector, a map nor tokens",
            f"name another layer; the stages are {', '.join(split)}",
        )
    near = difflib.get_close_matches(layer, [*split, *(name for name in found if name)], n=3, cutoff=0.5)
    raise GraftError(
        f"{asked}: the network has no layer {layer!r}",
        (f"the nearest: {', '.join(near)}; " if near else "") + f"the stages are {', '.join(split)}",
    )


def last_with_positions(found: Outputs, config: BackboneConfig) -> str:
    """The last module to finish that gives more than one position.

    Raises:
        GraftError: there is none.
    """
    spread = [name for name, output in found.items() if name and by_position(output).shape[1] > 1]
    if not spread:
        raise GraftError(
            f"no layer of {config.name} gives a feature map or tokens",
            "set feature_extraction.head to logistic, svm or neighbours, which need none",
        )
    return spread[-1]
