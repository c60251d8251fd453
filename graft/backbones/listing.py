"""What every architecture costs and gives, told without making its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from graft.backbones import catalogue
from graft.backbones.timm_models import PREFIX, timm_names, timm_tags

_MAKERS = (torch.empty, torch.zeros, torch.ones)
_RANDOM = ("normal_", "uniform_")


@dataclass(frozen=True)
class Listed:
    """One architecture.

    Attributes:
        name: As `backbone.name` takes it.
        parameters: Of the network without its head.
        input_size: Side of the images its default weights expect, pixels.
        num_features: F, the length of a feature vector.
        weights: What `backbone.weights` may name, beside files and addresses.
    """

    name: str
    parameters: int
    input_size: int
    num_features: int
    weights: tuple[str, ...]


def list_backbones(search: str | None = None, *, most: int = 40) -> tuple[list[Listed], int]:
    """Our small networks and torchvision's; with `search` those that match it, and timm's that do.

    Args:
        search: Part of a name in any case; * and ? stand for any letters.
        most: Models of timm to describe, in the order of their names.

    Returns:
        The architectures, and how many more of timm match.
    """
    quick = [name for name in catalogue.quick_names() if matches(name, search)]
    further = [name for name in timm_names() if matches(name, search)] if search else []
    names = [*quick, *further[:most]]
    return [describe(name) for name in names], max(len(further) - most, 0)


def matches(name: str, search: str | None) -> bool:
    """Whether a name contains the text, or the pattern."""
    return search is None or fnmatch(name.lower(), f"*{search.lower()}*")


def describe(name: str) -> Listed:
    """One architecture's row.

    Raises:
        GraftError: no such architecture.
    """
    with _WithoutWeights():
        network = catalogue.create(name, seed=0)
    return Listed(
        name=name,
        parameters=sum(parameter.numel() for parameter in network.module.parameters()),
        input_size=network.preprocessing.input_size,
        num_features=network.num_features,
        weights=_weights(name, network.provider),
    )


def _weights(name: str, provider: str) -> tuple[str, ...]:
    if provider == "graft":
        return ("pretrain", "random")
    if provider == "timm":
        return tuple(tag or "DEFAULT" for tag in timm_tags(name.removeprefix(PREFIX)))
    return tuple(member for member in catalogue.published(name) if member != "DEFAULT")


class _WithoutWeights(TorchFunctionMode):
    """Inside, layers have shapes but no memory, and nothing is drawn at random.

    torch.device("meta") would also take the small tensors that RegNet and others reckon with.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MAKERS:
            kwargs["device"] = "meta"
        elif getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
