"""Weights files of other programs: tensors by name, never code."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from graft.errors import GraftError

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training programs put the tensors
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_TRUNK = "trunk.network."  # of a classifier that graft saved
# Densenet's published files name norm.1 what has been norm1 since 2018.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def read_tensors(path: Path, origin: str) -> OrderedDict[str, Tensor]:
    """The tensors of a PyTorch state dict or a safetensors file, by their architecture's names.

    Wrappers such as {"state_dict": ...} and prefixes such as "module." are taken off.

    Args:
        path: The file.
        origin: How the user named it, for the error.

    Raises:
        GraftError: it is not whole, holds something else, or could be read only by running code.
    """
    content = _read_safetensors(path, origin) if path.suffix == ".safetensors" else _read_torch(path, origin)
    while isinstance(content, Mapping) and (inner := _wrapped(content)) is not None:
        content = inner
    if not isinstance(content, Mapping) or not content or not all(map(_is_tensor, content.values())):
        raise GraftError(
            f"backbone.weights: {origin} holds no state dict (tensors by name)",
            "save it with torch.save(model.state_dict(), path), or as safetensors",
        )
    return _own_names(content)


def without_head(state: OrderedDict[str, Tensor], head: Sequence[str]) -> OrderedDict[str, Tensor]:
    """The tensors but those of the layers named in `head`."""
    prefixes = tuple(f"{name}." for name in head)
    kept = OrderedDict((name, value) for name, value in state.items() if not name.startswith(prefixes))
    return _with_versions(kept, state)


def _read_torch(path: Path, origin: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise GraftError(
            f"backbone.weights: {origin} is not a whole file of tensors alone, and nothing else in it is "
            f"run ({first[0][:200]})",
            "save it with torch.save(model.state_dict(), path), or as safetensors; fetch it again if it is "
            "a truncated download",
        ) from error


def _read_safetensors(path: Path, origin: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise GraftError(
            f"backbone.weights: {origin} is not a whole safetensors file: {error}", "fetch it again"
        ) from error


def _wrapped(content: Mapping[str, Any]) -> Any:
    return next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _own_names(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    if any(name.startswith(_TRUNK) for name in state):
        return OrderedDict((n.removeprefix(_TRUNK), v) for n, v in state.items() if n.startswith(_TRUNK))
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _own_names({name.removeprefix(prefix): value for name, value in state.items()})
    renamed = OrderedDict((_OLD_DENSENET.sub(r"\1\2", name), value) for name, value in state.items())
    return _with_versions(renamed, state)


def _with_versions(
    state: OrderedDict[str, Tensor], original: Mapping[str, Tensor]
) -> OrderedDict[str, Tensor]:
    """Keep the versions that PyTorch notes beside the tensors: modules convert old files by them."""
    versions = getattr(original, "_metadata", None)
    if versions is not None:
        state._metadata = versions  # type: ignore[attr-defined]
    return state
