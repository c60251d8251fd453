"""Where in an image a classifier looked: class-activation maps (Grad-CAM, Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from graft.backbones.assembled import Combined, InnerLayers
from graft.backbones.classifier import Classifier
from graft.backbones.features import batches, evaluating
from graft.backbones.hooks import hooked
from graft.backbones.inputs import ImageLike, stack_pixels
from graft.backbones.layers import black
from graft.errors import GraftError
from graft.files import whole_file

SHOWN = 256  # pixels: side of each picture in a file
TITLE = 28  # pixels
OPACITY = 0.75  # of the map where it is largest


def explain(
    model: Classifier,
    images: Sequence[ImageLike],
    *,
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
) -> list[np.ndarray]:
    """Images with what spoke for a class laid over them, as the network saw them: cropped.

    Args:
        model: A classifier whose trunk ends in a feature map.
        images: Encoded files (bytes), paths, PIL images or uint8 arrays, as `Classifier.predict` takes.
        labels: The class to explain for each image; by default the most probable one.
        batch_size: Images at a time.

    Returns:
        N arrays uint8 (S, S, 3), S the network's input size.

    Raises:
        GraftError: an image cannot be used, a label is no class, or the network has no feature map.
    """
    pixels = stack_pixels(images, model.config.preprocessing)
    targets = None if labels is None else np.array([_position(model, label) for label in labels], np.int64)
    maps = activation_maps(model, pixels, targets, batch_size=batch_size)
    centre = model.config.preprocessing.centre(pixels).permute(0, 2, 3, 1).numpy()
    return [overlay(picture, each) for picture, each in zip(centre, maps, strict=True)]


def activation_maps(
    model: Classifier, pixels: Tensor, targets: np.ndarray | None = None, *, batch_size: int = 32
) -> np.ndarray:
    """Grad-CAM on the trunk's last feature map, enlarged to the network's input.

    Args:
        model: A classifier; it is left as it was.
        pixels: uint8 (N, 3, R, R).
        targets: int64 (N,), positions of the classes to explain; by default the most probable ones.
        batch_size: Images at a time.

    Returns:
        float32 (N, S, S) from 0 to 1; all zero where nothing spoke for the class.

    Raises:
        GraftError: the network has no feature map.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    device, size = model.device, model.config.preprocessing.input_size
    parts, done = [torch.empty(0, size, size)], 0
    with evaluating(model):
        grad_cam = LayerGradCam(model, last_map(model))
        for x in batches(pixels, model.config.preprocessing, batch_size, device):
            wanted = None if targets is None else targets[done : done + len(x)]
            target = _most_probable(model, x) if wanted is None else torch.as_tensor(wanted, device=device)
            found = grad_cam.attribute(x.requires_grad_(), target, relu_attributions=True)
            enlarged = LayerAttribution.interpolate(found, (size, size), "bilinear")
            parts.append(_to_one(enlarged.detach()[:, 0].float().cpu()))
            done += len(x)
    return torch.cat(parts).numpy()


def last_map(model: Classifier) -> nn.Module:
    """The trunk's last module that gives a feature map (N, F, H, W) with H = W > 1.

    Raises:
        GraftError: after it the network works on something other than a map or a vector, as vision
            transformers do on tokens; then there is no map of what the classes depend on.
    """
    network = model.trunk.network
    if isinstance(network, Combined):
        raise GraftError(
            f"{model.config.name} cannot be explained by one class-activation map: each network has its own",
            "leave out --explain, or explain a model of one network",
        )
    shapes = _output_shapes(model)
    modules = [each for _, stage in model.trunk.stages for each in _callable(stage)]
    if isinstance(network, InnerLayers):  # the head depends on nothing else
        modules = network.modules_noted()
    for module in reversed(modules):
        for shape in shapes.get(module, ()):
            if len(shape) == 4 and shape[2] == shape[3] > 1:
                return module
            if len(shape) != 2 and shape[1:].numel() != max(shape[1:]):  # neither a vector nor pooled
                raise _no_map(model, shape)
    raise _no_map(model, None)


def _no_map(model: Classifier, shape: torch.Size | None) -> GraftError:
    given = f"its last stage gives {tuple(shape)}" if shape else "none of its stages gives one"
    return GraftError(
        f"{model.config.name} cannot be explained by class-activation maps: they need a feature map "
        f"(N, F, H, W) before the head, and {given}",
        "leave out --explain, or train a convolutional network such as resnet18, mobilenet_v2 or digits_cnn",
    )


def _callable(stage: nn.Module) -> Iterator[nn.Module]:
    """A stage's parts that have a forward method."""
    if isinstance(stage, nn.ModuleList):
        for part in stage:
            yield from _callable(part)
    else:
        yield stage


def _output_shapes(model: Classifier) -> dict[nn.Module, list[torch.Size]]:
    """What each module of the trunk gives for one image; nothing where it is not run."""
    shapes: dict[nn.Module, list[torch.Size]] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(module, []).append(output.shape)

    modules = model.trunk.network.modules()
    with hooked(each.register_forward_hook(note) for each in modules):
        black(model, model.config)
    return shapes


@torch.no_grad()
def _most_probable(model: Classifier, x: Tensor) -> Tensor:
    return model(x).argmax(1)


def _position(model: Classifier, label: str) -> int:
    if label not in model.classes:
        raise GraftError(f"{label!r} is no class of this model", f"its classes: {', '.join(model.classes)}")
    return model.classes.index(label)


def _to_one(maps: Tensor) -> Tensor:
    """Each map (N, S, S) divided by its own maximum."""
    top = maps.amax((1, 2), keepdim=True)
    return torch.where(top > 0, maps / top.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


def overlay(picture: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """A map in colours over an image, the more opaque the larger its value.

    Args:
        picture: uint8 (S, S, 3).
        activation: (S, S) from 0 to 1.

    Returns:
        uint8 (S, S, 3).
    """
    from matplotlib import colormaps

    colours = colormaps["inferno"](0.35 + 0.65 * activation)[..., :3] * 255
    opacity = OPACITY * activation[..., None]
    return np.rint(picture * (1 - opacity) + colours * opacity).astype(np.uint8)


def save_explanations(
    model: Classifier, pixels: Sequence[np.ndarray], paths: Sequence[Path], titles: Sequence[str]
) -> None:
    """Write a PNG per image: the image as the network saw it, beside it the overlay, above them a title.

    Args:
        model: A classifier whose trunk ends in a feature map.
        pixels: N arrays uint8 (3, R, R).
        paths: The N files to write.
        titles: N lines, such as "bee 97.1%".

    Raises:
        GraftError: the network has no feature map, or the disk is full.
    """
    if not len(pixels):
        return
    stacked = torch.from_numpy(np.stack(pixels))
    maps = activation_maps(model, stacked)
    pictures = model.config.preprocessing.centre(stacked).permute(0, 2, 3, 1).numpy()
    for path, title, picture, each in zip(paths, titles, pictures, maps, strict=True):
        with whole_file(path) as temporary:
            _sheet(picture, overlay(picture, each), title).save(temporary, "PNG")


def _sheet(picture: np.ndarray, explained: np.ndarray, title: str) -> Image.Image:
    sheet = Image.new("RGB", (2 * SHOWN + 4, SHOWN + TITLE), "white")
    for left, each in ((0, picture), (SHOWN + 4, explained)):
        shown = Image.fromarray(each).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
        sheet.paste(shown, (left, TITLE))
    ImageDraw.Draw(sheet).text((6, TITLE / 2), title, "black", _font(), anchor="lm")
    return sheet


def _font() -> ImageFont.FreeTypeFont:
    """matplotlib's own: it has more letters than Pillow's."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 15)
