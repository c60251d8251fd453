"""A phase of training on disk, so that a kill at any moment costs at most one epoch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.files import whole_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the whole state of a phase, or leave the one before."""
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved, or None. Holds tensors and plain values only; nothing is unpickled."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's parameters and buffers, detached from further training."""
    return copy.deepcopy({name: tensor.detach() for name, tensor in module.state_dict().items()})
