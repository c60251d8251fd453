"""Which architectures there are: our small ones, torchvision's classifiers and timm's models."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graft.backbones import small
from graft.backbones.origins import hash_in_name
from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing

_SMALL = ("digits_cnn", "resnet20")
_TIMM = "timm/"
_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network without its head.

    Attributes:
        module: Normalised images (N, 3, S, S) to features.
        head: Names the head and its helpers had; their tensors in a weights file are not wanted.
        num_features: F.
        preprocessing: What the provider's default weights expect.
        provider: "graft", "torchvision" or "timm".
    """

    module: nn.Module
    head: tuple[str, ...]
    num_features: int
    preprocessing: Preprocessing
    provider: str


def create(name: str, *, seed: int, input_size: int | None = None) -> Network:
    """A network with random weights that depend on the seed only.

    Args:
        name: "digits_cnn", "resnet20", a torchvision classifier, or "timm/" and a name of timm.
        seed: Of the weights; the global random state is left as it was.
        input_size: Side of the images in pixels, for networks that have a weight per position.

    Raises:
        GraftError: no such architecture.
    """
    provider = provider_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if provider == "graft":
            return _create_small(name)
        if provider == "timm":
            return _create_timm(name.removeprefix(_TIMM))
        return _create_torchvision(name, input_size)


def provider_of(name: str) -> str:
    """Whose architecture it is: "graft", "torchvision" or "timm".

    Raises:
        GraftError: nobody's; the nearest names are given.
    """
    if name in _SMALL:
        return "graft"
    if name in torchvision_names():
        return "torchvision"
    if name.startswith(_TIMM) and _timm_has(name.removeprefix(_TIMM)):
        return "timm"
    raise _unknown(name)


def torchvision_names() -> list[str]:
    """torchvision's image classifiers."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def torchvision_preprocessing(name: str, weights: Any) -> Preprocessing:
    """What a member of a torchvision weights enum expects of an image."""
    preset = weights.transforms()
    # These two undo ImageNet's normalisation and apply mean and deviation 0.5; here that is done at once.
    halves = name in ("googlenet", "inception_v3")
    return Preprocessing(
        input_size=preset.crop_size[0],
        resize_size=preset.resize_size[0],
        mean=(0.5, 0.5, 0.5) if halves else tuple(preset.mean),
        std=(0.5, 0.5, 0.5) if halves else tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def published(name: str) -> dict[str, Any]:
    """torchvision's weights of an architecture, by name, DEFAULT among them; {} for our own."""
    from torchvision.models import get_model_weights

    if name in _SMALL:
        return {}
    return dict(get_model_weights(name).__members__)


def preprocessing_of_file(name: str, sha256: str) -> Preprocessing | None:
    """What weights in a file expect: as published with that hash, else as the first ones published.

    None where the architecture itself tells (our own and timm's).
    """
    if provider_of(name) != "torchvision":
        return None
    members = list(published(name).values())
    same = [member for member in members if sha256.startswith(hash_in_name(member.url) or "-")]
    return torchvision_preprocessing(name, (same or members)[0])


def pretrained_timm(name: str, weights: str) -> Network:
    """A model of timm with its published weights, downloaded by timm.

    Args:
        name: "timm/" and a name of timm.
        weights: DEFAULT, or a tag of timm such as "a1_in1k".

    Raises:
        GraftError: no such weights, or they cannot be fetched.
    """
    import timm

    architecture, _, tag = name.removeprefix(_TIMM).partition(".")
    tags = [
        each.partition(".")[2]
        for each in timm.list_pretrained(f"{architecture}*")
        if each.partition(".")[0] == architecture
    ]
    wanted = tag if weights == "DEFAULT" else weights
    if not tags or (wanted and wanted not in tags):
        raise GraftError(
            f"backbone.weights: timm publishes no weights {weights!r} of {architecture}",
            f"published: DEFAULT, {', '.join(tags)}" if tags else "give random, pretrain or a file",
        )
    try:
        return _create_timm(f"{architecture}.{wanted}" if wanted else architecture, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise GraftError(
            f"timm cannot fetch {weights} of {architecture}: {error}",
            "without a network, give backbone.weights a file (.pth, .pt, .safetensors) or an s3:// address",
        ) from error


def quick_names() -> list[str]:
    """Architectures that build without timm."""
    return [*_SMALL, *torchvision_names()]


def _create_small(name: str) -> Network:
    if name == "resnet20":
        return Network(small.CifarResNet(3), ("linear",), 64, small.CIFAR, "graft")
    return Network(small.DigitsCnn(), ("linear",), 128, small.DIGITS, "graft")


def _create_torchvision(name: str, input_size: int | None) -> Network:
    from torchvision.models import get_model, get_model_weights

    preprocessing = torchvision_preprocessing(name, get_model_weights(name).DEFAULT)
    options: dict[str, Any] = {}
    helpers: tuple[str, ...] = ()
    if name.startswith("vit_"):  # it has a weight per position
        options["image_size"] = input_size or preprocessing.input_size
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
        helpers = ("aux1", "aux2", "AuxLogits")
    module = get_model(name, weights=None, **options)
    head, num_features = _behead(module)
    return Network(module, (head, *helpers), num_features, preprocessing, "torchvision")


def _create_timm(name: str, *, pretrained: bool = False) -> Network:
    import timm
    from timm.data import resolve_model_data_config

    module: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    head = module.pretrained_cfg.get("classifier") or ()
    return Network(
        module,
        (head,) if isinstance(head, str) else tuple(head),
        getattr(module, "head_hidden_size", module.num_features),
        _timm_preprocessing(resolve_model_data_config(module)),
        "timm",
    )


def _behead(module: nn.Module) -> tuple[str, int]:
    """Replace the last layer that gives ImageNet's classes; its name and the features it took."""
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if _IMAGENET_CLASSES in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))
    ]
    name, layer = layers[-1]
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
    return name, int(getattr(layer, "in_features", 0) or getattr(layer, "in_channels", 0))


def _timm_preprocessing(config: dict[str, Any]) -> Preprocessing:
    size = config["input_size"][-1]
    return Preprocessing(
        input_size=size,
        resize_size=round(size / config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )


def _timm_has(name: str) -> bool:
    import timm

    return timm.is_model(name)


def _unknown(name: str) -> GraftError:
    import timm

    known = [*quick_names(), *(_TIMM + model for model in timm.list_models())]
    nearest = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    nearest += [each for each in (_TIMM + name,) if each in known and each not in nearest]
    return GraftError(
        f"backbone.name: there is no architecture {name!r}",
        f"one of the nearest names: {', '.join(nearest)}"
        if nearest
        else "give digits_cnn, resnet20, a torchvision classifier such as resnet18, or timm/<model>",
    )
