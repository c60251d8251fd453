"""Models of the library timm: built, with published weights, and by name."""

from __future__ import annotations

from typing import Any

from graft.backbones.network import IMAGENET_CLASSES, Network, no_head
from graft.errors import GraftError
from graft.images.preprocessing import Preprocessing

PREFIX = "timm/"


def timm_has(name: str) -> bool:
    """Whether timm knows a model, by its name without "timm/"; a tag of weights may follow it."""
    import timm

    return timm.is_model(name)


def timm_names() -> list[str]:
    """timm's models as `backbone.name` takes them, sorted."""
    import timm

    return [PREFIX + name for name in timm.list_models()]


def timm_tags(architecture: str) -> list[str]:
    """The weights that timm publishes of an architecture, its default first; "" is a tag, too."""
    import timm

    names = [each.partition(".") for each in timm.list_pretrained(f"{architecture}*")]
    tags = [tag for name, _, tag in names if name == architecture]
    default = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    return sorted(tags, key=lambda tag: default is None or tag != default.tag)


def pretrained_timm(name: str, weights: str, *, with_head: bool = False) -> Network:
    """A model of timm with its published weights, downloaded by timm.

    Args:
        name: "timm/" and a name of timm.
        weights: DEFAULT, or a tag of timm such as "a1_in1k".
        with_head: Keep the layer that tells ImageNet's 1000 classes apart.

    Raises:
        GraftError: no such weights, they cannot be fetched, or they are of another head.
    """
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    tags = timm_tags(architecture)
    wanted = tag if weights == "DEFAULT" else weights
    if not tags or (wanted and wanted not in tags):
        raise GraftError(
            f"backbone.weights: timm publishes no weights {weights!r} of {architecture}",
            f"published: DEFAULT, {', '.join(tags)}" if tags else "give random, pretrain or a file",
        )
    try:
        network = create_timm(
            f"{architecture}.{wanted}" if wanted else architecture,
            pretrained=True,
            num_classes=None if with_head else 0,
        )
    except (OSError, RuntimeError) as error:
        raise GraftError(
            f"timm cannot fetch {weights} of {architecture}: {error}",
            "without a network, give backbone.weights a file (.pth, .pt, .safetensors) or an s3:// address",
        ) from error
    classes = getattr(network.module, "num_classes", 0)
    if with_head and classes != IMAGENET_CLASSES:  # asked for 1000, timm would give a random head
        raise no_head(f"{name} with {weights}", f"it tells {classes} classes apart")
    return network


def create_timm(
    name: str, input_size: int | None = None, *, pretrained: bool = False, num_classes: int | None = 0
) -> Network:
    """A model of timm; `num_classes` 0 leaves the head out, None keeps the one of the weights."""
    import timm
    from timm.data import resolve_model_data_config

    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    options |= _size_option(name, input_size)
    try:
        module: Any = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError, ValueError) as error:
        if "img_size" not in options:
            raise
        raise GraftError(
            f"{PREFIX}{name} cannot be built for images of {input_size} pixels: {error}",
            "give a size that its patches divide, or that of its published weights",
        ) from error
    head = module.pretrained_cfg.get("classifier") or ()
    removed = (head,) if isinstance(head, str) else tuple(head)
    return Network(
        module,
        removed if num_classes == 0 else (),
        getattr(module, "head_hidden_size", module.num_features),
        _preprocessing(resolve_model_data_config(module)),
        "timm",
    )


def _size_option(name: str, input_size: int | None) -> dict[str, Any]:
    """The option for another size than the default, for models with a weight per position."""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.fixed_input_size or input_size in (None, config.input_size[-1]):
        return {}
    return {"img_size": input_size}


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    size = config["input_size"][-1]
    return Preprocessing(
        input_size=size,
        resize_size=round(size / config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )
