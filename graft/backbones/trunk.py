"""A backbone: a network without its classification head, and the facts that travel with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graft.backbones import catalogue, tensors
from graft.backbones.descriptions import read_description
from graft.backbones.stages import stages
from graft.errors import GraftError
from graft.files import remove, write_json
from graft.images.preprocessing import Preprocessing


class Trunk(nn.Module):
    """Any network whose head is gone: normalised images in, pooled features out.

    Args:
        network: Gives (N, F), or a feature map (N, F, H, W), which is then averaged over H and W.
        num_features: F.
        head: Names that the removed head has in the network; its tensors in a weights file are dropped.

    Shape:
        (N, 3, S, S) float -> (N, F) float
    """

    def __init__(self, network: nn.Module, *, num_features: int, head: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        self.num_features = num_features
        self.head = tuple(head)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x)
        return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)

    @property
    def stages(self) -> list[tuple[str, nn.Module]]:
        """Name and module of each stage, stem first; together every parameter and buffer exactly once."""
        return stages(self.network)


@dataclass(frozen=True)
class BackboneConfig:
    """What a backbone is, beside its weights.

    Attributes:
        name: Architecture, as `build` takes it.
        provider: "graft", "torchvision" or "timm".
        num_features: F, the length of a feature vector.
        preprocessing: What the weights expect of an image.
        weights: Where the weights came from.
        sha256: Of the file they came from; where there was none, of the saved weights.
        structure: What was made from the architecture, as `structures.rebuild` takes it; None where it
            is used as it is.
    """

    name: str
    provider: str
    num_features: int
    preprocessing: Preprocessing
    weights: str
    sha256: str | None = None
    structure: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it; without `structure` where there is none."""
        values = asdict(self)
        if self.structure is None:
            del values["structure"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackboneConfig:
        """The inverse of `to_dict`."""
        return cls(**{**values, "preprocessing": Preprocessing.from_dict(values["preprocessing"])})


def build(
    name: str, *, seed: int = 0, preprocessing: Preprocessing | None = None
) -> tuple[Trunk, BackboneConfig]:
    """A backbone with random weights, the same for the same seed.

    Args:
        name: "digits_cnn", "resnet20", a torchvision classifier, or "timm/" and a name of timm.
        seed: Of the weights.
        preprocessing: What the weights to come expect; by default what the provider's own weights do.

    Raises:
        GraftError: no such architecture; the nearest names are given.
    """
    size = preprocessing.input_size if preprocessing else None
    return assemble(name, catalogue.create(name, seed=seed, input_size=size), "random", preprocessing)


def assemble(
    name: str, network: catalogue.Network, weights: str, preprocessing: Preprocessing | None = None
) -> tuple[Trunk, BackboneConfig]:
    """A network of the catalogue as a trunk, with its config."""
    trunk = Trunk(network.module, num_features=network.num_features, head=network.head)
    preprocessing = preprocessing or network.preprocessing
    return trunk, BackboneConfig(name, network.provider, network.num_features, preprocessing, weights)


def save_backbone(trunk: Trunk, config: BackboneConfig, folder: str | Path) -> None:
    """Write `weights.safetensors`, then `backbone.json`, which names its sha256.

    The tensors keep the names that the architecture's own library gives them.

    Raises:
        GraftError: the disk is full.
    """
    folder = Path(folder)
    remove(folder / "backbone.json")  # while the weights change there is no backbone here
    digest = tensors.save(trunk.network.state_dict(), folder / "weights.safetensors")
    config = config if config.sha256 else replace(config, sha256=digest)
    write_json(folder / "backbone.json", {**config.to_dict(), "weights_sha256": digest})


def load_backbone(folder: str | Path) -> tuple[Trunk, BackboneConfig]:
    """Read what `save_backbone` wrote.

    Raises:
        GraftError: the folder holds no backbone, a half-written one, or one whose weights were changed.
    """
    from graft.backbones.structures import rebuild  # it makes trunks of trunks

    folder = Path(folder)
    path = folder / "backbone.json"
    values = read_description(path, tensors.AGAIN)
    digest = values.pop("weights_sha256", "")
    config = read_config(values, path)
    state = tensors.load(folder / "weights.safetensors", sha256=digest)
    trunk = rebuild(config)
    tensors.fill(trunk.network, state, what=f"{folder} ({config.name})")
    return trunk, config


def read_config(values: dict[str, Any], path: Path) -> BackboneConfig:
    """A config as JSON stored it in the file `path`.

    Raises:
        GraftError: entries are missing, or unknown.
    """
    try:
        return BackboneConfig.from_dict(values)
    except (KeyError, TypeError) as error:
        raise GraftError(f"{path} does not describe a backbone: {error}", tensors.AGAIN) from error
