"""Which architectures there are: our small ones, torchvision's classifiers and timm's models."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from graft.backbones import small
from graft.backbones.network import IMAGENET_CLASSES, Network, no_head
from graft.backbones.origins import hash_in_name
from graft.backbones.timm_models import PREFIX, create_timm, timm_has, timm_names
from graft.backbones.timm_models import pretrained_timm as pretrained_timm
from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing

_SMALL = ("digits_cnn", "dann_cnn", "resnet20")


def create(name: str, *, seed: int, input_size: int | None = None, with_head: bool = False) -> Network:
    """A network with random weights that depend on the seed only.

    Args:
        name: "digits_cnn", "dann_cnn", "resnet20", a torchvision classifier, or "timm/" and a name of timm.
        seed: Of the weights; the global random state is left as it was.
        input_size: Side of the images in pixels, for networks that have a weight per position.
        with_head: Keep the layer that tells ImageNet's 1000 classes apart.

    Raises:
        GraftError: no such architecture, none for images of that size, or none with such a head.
    """
    provider = provider_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if provider == "graft":
            return _create_small(name, with_head)
        if provider == "timm":
            classes = IMAGENET_CLASSES if with_head else 0
            return create_timm(name.removeprefix(PREFIX), input_size, num_classes=classes)
        return _create_torchvision(name, input_size, with_head)


def provider_of(name: str) -> str:
    """Whose architecture it is: "graft", "torchvision" or "timm".

    Raises:
        GraftError: nobody's; the nearest names are given.
    """
    if name in _SMALL:
        return "graft"
    if name in torchvision_names():
        return "torchvision"
    if name.startswith(PREFIX) and timm_has(name.removeprefix(PREFIX)):
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


def quick_names() -> list[str]:
    """Architectures that build without timm."""
    return [*_SMALL, *torchvision_names()]


def _create_small(name: str, with_head: bool) -> Network:
    if with_head:
        raise no_head(name, "it is for small images of any classes")
    if name == "resnet20":
        return Network(small.CifarResNet(3), ("linear",), 64, small.CIFAR, "graft")
    if name == "dann_cnn":
        return Network(small.DannCnn(), ("linear",), 100, small.MNIST, "graft")
    return Network(small.DigitsCnn(), ("linear",), 128, small.DIGITS, "graft")


def _create_torchvision(name: str, input_size: int | None, with_head: bool) -> Network:
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
    head, num_features = _find_head(module)
    if with_head:
        return Network(module, helpers, num_features, preprocessing, "torchvision")
    parent, _, child = head.rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
    return Network(module, (head, *helpers), num_features, preprocessing, "torchvision")


def _find_head(module: nn.Module) -> tuple[str, int]:
    """The last layer that gives ImageNet's classes: its name and the features it takes."""
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if IMAGENET_CLASSES in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))
    ]
    name, layer = layers[-1]
    return name, int(getattr(layer, "in_features", 0) or getattr(layer, "in_channels", 0))


def _unknown(name: str) -> GraftError:
    known = [*quick_names(), *timm_names()]
    nearest = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    nearest += [each for each in (PREFIX + name,) if each in known and each not in nearest]
    return GraftError(
        f"backbone.name: there is no architecture {name!r}",
        f"one of the nearest names: {', '.join(nearest)}"
        if nearest
        else "give digits_cnn, dann_cnn, resnet20, a torchvision classifier like resnet18, or timm/<model>",
    )
