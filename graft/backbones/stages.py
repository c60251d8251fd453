"""A network as a list of stages in depth order, whatever its architecture."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class LooseTensors(nn.Module):
    """Parameters and buffers that a module holds beside its children, such as a class token."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        for name, parameter in owner.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in owner.named_buffers(recurse=False):
            self.register_buffer(name, buffer)


class Assembled(nn.Module):
    """A network made from others, which says itself what its stages are."""

    def split(self) -> list[tuple[str, nn.Module]]:
        """As `stages` gives it: together every parameter and buffer exactly once."""
        raise NotImplementedError


def stages(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Split a network into stages, in the order in which it defines its children.

    A stage is one block or one layer with weights, followed by what has none of its own to learn:
    normalisation, activation, pooling, dropout. Together the stages hold every parameter, buffer and
    leaf module exactly once, so a stage can be frozen, put in eval mode or given a learning rate.
    (Only a layer that a network uses inside several blocks is in each of them: timm's CoaT.)
    """
    if isinstance(network, Assembled):
        return network.split()
    found: list[tuple[str, list[nn.Module]]] = []
    early: list[nn.Module] = []  # before the first layer with weights
    for name, module in _pieces(network, "", _size(network)):
        if _starts_stage(module):
            found.append((name, [*early, module]))
            early = []
        elif found:
            found[-1][1].append(module)
        else:
            early.append(module)
    if early:
        found.append(("rest", early))
    return [(name, modules[0] if len(modules) == 1 else nn.ModuleList(modules)) for name, modules in found]


def _pieces(module: nn.Module, path: str, total: int) -> Iterator[tuple[str, nn.Module]]:
    loose = LooseTensors(module)
    if [*loose.parameters(), *loose.buffers()]:
        yield path or "loose", loose
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        if _opens(child, total):
            yield from _pieces(child, child_path, total)
        else:
            yield child_path, child


def _opens(module: nn.Module, total: int) -> bool:
    """Whether to look inside: a plain container, or a wrapper around one with most of the weights.

    Of the containers' subclasses most are blocks (convolution, norm, activation), so size decides.
    """
    if type(module) in _CONTAINERS or (isinstance(module, _CONTAINERS) and _size(module) > total / 2):
        return True
    inner = [child for child in module.children() if type(child) in _CONTAINERS]
    return any(_size(child) > total / 2 for child in inner)


def _starts_stage(module: nn.Module) -> bool:
    """Whether it has weights: normalisation and loose tensors have none, or vectors only."""
    if isinstance(module, LooseTensors):
        return False
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
