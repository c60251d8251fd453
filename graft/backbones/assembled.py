"""Networks made from networks: inner layers as features, new blocks on top, several side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.stages import Assembled, LooseTensors, stages
from graft.images.preprocessing import Preprocessing

# What the network now running has given so far, by module. Each thread has its own.
_noted: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("noted", default=None)


class InnerLayers(Assembled):
    """A network that gives what some of its own modules give.

    Args:
        network: Any.
        layers: Names of modules in it.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        for layer in self.modules_noted():
            layer.register_forward_hook(_note)

    def modules_noted(self) -> list[nn.Module]:
        """The modules whose outputs are used, in the order of `layers`."""
        return [self.network.get_submodule(name) for name in self.layers]

    def outputs(self, x: Tensor) -> list[Tensor]:
        """What each layer gives for images (N, 3, S, S)."""
        token = _noted.set({})
        try:
            self.network(x)
            noted = _noted.get() or {}
        finally:
            _noted.reset(token)
        return [noted[layer] for layer in self.modules_noted()]

    def split(self) -> list[tuple[str, nn.Module]]:
        """The network's own stages."""
        return stages(self.network)


class Layered(InnerLayers):
    """Several layers, each averaged over its positions, joined.

    Shape:
        (N, 3, S, S) -> (N, sum of F)
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([by_position(output).mean(1) for output in self.outputs(x)], 1)


class Positions(InnerLayers):
    """One layer, not averaged: the features of each of its P positions after those of the one before.

    Shape:
        (N, 3, S, S) -> (N, P * F)
    """

    def forward(self, x: Tensor) -> Tensor:
        return by_position(self.outputs(x)[0]).flatten(1)


class Hybrid(Assembled):
    """The first stages of one network, and new blocks on them.

    Shape:
        (N, 3, S, S) -> (N, F, H, W)
    """

    def __init__(self, kept: nn.Sequential, new: nn.Sequential) -> None:
        super().__init__()
        self.kept = kept
        self.new = new

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.new(self.kept(x))
        return y

    def split(self) -> list[tuple[str, nn.Module]]:
        """The kept stages, then one for each new block."""
        kept = [(f"kept.{name}", stage) for name, stage in stages(self.kept)]
        return [*kept, *((f"new.{name}", block) for name, block in self.new.named_children())]


class Part(nn.Module):
    """A trunk that takes images prepared for another one, and gives standardised features.

    Args:
        trunk: Gives (N, F).
        num_features: F.
        prepared: How the images come.
        wanted: What the trunk expects.

    Shape:
        (N, 3, S, S) -> (N, F), divided by sqrt(F), so that every part has the same length on average
    """

    mean: Tensor
    deviation: Tensor
    resize: Tensor
    factor: Tensor
    offset: Tensor

    def __init__(
        self, trunk: nn.Module, num_features: int, prepared: Preprocessing, wanted: Preprocessing
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("deviation", torch.ones(num_features))
        self.scale = num_features**0.5
        mean, std = torch.tensor(prepared.mean), torch.tensor(prepared.std)
        own_mean, own_std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
        self.same = (prepared.mean, prepared.std) == (wanted.mean, wanted.std)
        self.register_buffer("factor", (std / own_std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", ((mean - own_mean) / own_std).view(1, 3, 1, 1), persistent=False)
        matrix = resizing(prepared.input_size, wanted.input_size)
        self.register_buffer("resize", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            x = x * self.factor + self.offset
        if len(self.resize) != x.shape[-1]:
            x = self.resize @ x @ self.resize.T
        features: Tensor = self.trunk(x)
        return (features - self.mean) / (self.deviation * self.scale)

    def split(self) -> list[tuple[str, nn.Module]]:
        """The trunk's stages; the buffers are in the first."""
        (name, first), *rest = stages(self.trunk.network)  # type: ignore[arg-type]
        return [(name, nn.ModuleList([LooseTensors(self), first])), *rest]


class Combined(Assembled):
    """Several trunks side by side.

    Shape:
        (N, 3, S, S) -> (N, sum of F)
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Part]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.parts: Iterable[Part] = nn.ModuleList(parts)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Set what the parts subtract and divide by, from statistics (sum of F,) of what they give now."""
        sizes = [part.mean.numel() for part in self.parts]
        for part, m, d in zip(self.parts, mean.split(sizes), deviation.split(sizes), strict=True):
            scale = part.deviation * part.scale
            part.mean += m.to(scale.device) * scale
            part.deviation *= d.to(scale.device) * part.scale

    def lengths(self) -> Tensor:
        """For each feature, by what its standardised value is divided: (sum of F,)."""
        return torch.cat([torch.full_like(part.mean, part.scale) for part in self.parts])

    def split(self) -> list[tuple[str, nn.Module]]:
        """Each part's stages, called by the part's number and name, as in "0.resnet18.layer1"."""
        return [
            (f"{number}.{name}.{stage}", module)
            for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True))
            for stage, module in part.split()
        ]


def by_position(output: Tensor) -> Tensor:
    """A vector (N, F), a map (N, F, H, W) or (N, H, W, F), or tokens (N, P, F) -> (N, P, F).

    Images are square, so of a map's sides the two that are equal are positions.
    """
    if output.ndim == 2:
        return output.unsqueeze(1)
    if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        return output.flatten(1, 2)
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


def resizing(given: int, wanted: int) -> Tensor:
    """The matrix M (wanted, given) for which M x M^T is x resized: bilinear, with antialiasing.

    A product of matrices, because few programs that run an exported network can do the antialiasing.
    """
    if given == wanted:
        return torch.eye(given)
    rows = functional.interpolate(
        torch.eye(given)[None, None], size=(wanted, given), mode="bilinear", antialias=True
    )
    return rows[0, 0]


def _note(module: nn.Module, _inputs: object, output: Tensor) -> None:
    noted = _noted.get()
    if noted is not None:
        noted[module] = output.clone()  # an activation after it may work in place
