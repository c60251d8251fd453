"""Which architecture a weights file belongs to, by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from graft.backbones import catalogue

_COUNTER = "num_batches_tracked"  # younger than many files


def looks_like(state: Mapping[str, Tensor], *, at_least: float = 0.9) -> str | None:
    """The architecture, of ours and torchvision's, whose tensors these are; None if it is none of them.

    Networks are built without memory for their weights; even so all of them take some ten seconds.

    Args:
        state: Tensors by name, head included or not.
        at_least: Share of tensors that must agree in name and shape.
    """
    shapes = _shapes(state.items())
    names = catalogue.quick_names()
    return next((name for name in names if _agreement(name, shapes) >= at_least), None)


def _agreement(name: str, shapes: set[tuple[str, tuple[int, ...]]]) -> float:
    try:
        with torch.device("meta"):
            network = catalogue.create(name, seed=0)
    except (NotImplementedError, RuntimeError):  # some constructors compute with tensors
        return 0.0
    own = _shapes(network.module.state_dict().items())
    head = tuple(f"{layer}." for layer in network.head)
    either = {pair for pair in own | shapes if not pair[0].startswith(head)}
    return len(own & shapes) / max(len(either), 1)


def _shapes(tensors: Iterable[tuple[str, Tensor]]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(value.shape)) for name, value in tensors if not name.endswith(_COUNTER)}
