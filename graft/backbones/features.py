"""A frozen network over many images: features out, nothing in the network changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from itertools import chain, repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graft.backbones.engine import Run, in_openvino, worthwhile
from graft.backbones.gpu import BATCHES, on_gpu
from graft.backbones.precision import autocast, has_bfloat16, lay_out, number_format
from graft.backbones.room import parts
from graft.images.preprocessing import Preprocessing
from graft.images.threads import one_core
from graft.progress import track

if TYPE_CHECKING:
    from graft.backbones.trunk import BackboneConfig, Trunk

ENGINES = ("auto", "torch", "openvino")
PIECE = 512  # images that OpenVINO is given at a time: after each it waits for the last of them


def extract(
    trunk: Trunk,
    config: BackboneConfig,
    pixels: Tensor,
    batch_size: int,
    what: str = "features",
    engine: str = "torch",
) -> Tensor:
    """Pooled features of images, in eval mode; no value, buffer or training flag changes.

    Args:
        trunk: The network; its device does the work.
        config: Tells how the images are prepared.
        pixels: uint8 (N, 3, R, R), R = the config's resize_size.
        batch_size: Images at a time; fewer where memory does not suffice.
        what: The work, as the progress line calls it.
        engine: See `extractor`.

    Returns:
        float32 (N, F), on the CPU.
    """
    return extractor(trunk, config, batch_size, engine=engine, images=len(pixels))(pixels, what)


def extractor(
    trunk: Trunk, config: BackboneConfig, batch_size: int, *, engine: str, images: int
) -> Callable[[Tensor, str], Tensor]:
    """What gives the features of images as `extract` does, for one set of them after the other.

    An image's features differ by rounding between the engines, and in torch between batch sizes: in
    float32 to a cosine above 0.99999. In bfloat16 they have one of at least 0.995 to float32.

    Args:
        trunk, config, batch_size: As of `extract`. The weights must stay as they are between sets.
        engine: "torch", "openvino", or "auto": on a CPU OpenVINO, where there is work enough for it.
            Where OpenVINO cannot run the network torch does, and a line says so.
        images: How many there will be in all.
    """
    if engine not in ENGINES:
        raise ValueError(f"the engine is {engine!r}, not one of {', '.join(ENGINES)}")
    chosen: list[tuple[Run, int]] = []

    def features_of(pixels: Tensor, what: str) -> Tensor:
        _check(pixels, config.preprocessing)
        features = torch.empty(len(pixels), config.num_features)  # outside inference mode: heads train on it
        if not len(pixels):
            return features
        with evaluating(trunk):
            if not chosen:
                chosen.append(_choose(trunk, config, pixels, batch_size, engine, images))
            run, size = chosen[0]
            done = parts(len(pixels), size, lambda part: run(pixels[part], features[part]))
            each = chain.from_iterable(repeat(None, count) for count in done)
            for _ in track(each, what, total=len(pixels), unit="images"):
                pass
        return features

    return features_of


def batches(
    pixels: Tensor, preprocessing: Preprocessing, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Cropped, normalised batches on a device, channels last: what a network takes in evaluation.

    Args:
        pixels: uint8 (N, 3, R, R).
        preprocessing: Crop, mean and deviation.
        batch_size: Images at a time; the last batch may be smaller.
        device: Where the batches go.

    Yields:
        float32 (B, 3, S, S).
    """
    _check(pixels, preprocessing)
    for batch in pixels.split(batch_size) if len(pixels) else ():
        x = preprocessing.normalise(preprocessing.centre(batch.to(device)))
        yield x.contiguous(memory_format=torch.channels_last)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def _choose(
    trunk: Trunk, config: BackboneConfig, pixels: Tensor, batch_size: int, engine: str, images: int
) -> tuple[Run, int]:
    """What computes features, and of how many images at a time."""
    device, preprocessing = next(trunk.parameters()).device, config.preprocessing
    possible = device.type == "cpu" and engine != "torch"
    if engine == "auto" and number_format(device) == torch.bfloat16:
        possible &= has_bfloat16(device)  # OpenVINO emulates nothing
    if possible and (engine == "openvino" or worthwhile(trunk, preprocessing, images)):
        run = in_openvino(trunk, preprocessing, pixels, config.name)
        if run is not None:
            return run, PIECE
    lay_out(trunk)
    if device.type == "cuda":
        run = on_gpu(trunk, preprocessing, batch_size, pixels, config.name, images=images)
        return run, BATCHES * batch_size

    def in_torch(pixels: Tensor, out: Tensor) -> None:
        with torch.inference_mode(), autocast(device):
            for x in batches(pixels, preprocessing, len(pixels), device):
                out.copy_(trunk(x))

    return (_shared_out(in_torch) if device.type == "cpu" else in_torch), batch_size


def _shared_out(run: Run) -> Run:
    """Each core computes some of the images: it never waits for the others, as it would at each operator."""

    def on_one_core(pixels: Tensor, out: Tensor) -> None:
        with one_core():
            run(pixels, out)

    def run_all(pixels: Tensor, out: Tensor) -> None:
        cores = min(torch.get_num_threads(), len(pixels))
        pairs = zip(pixels.tensor_split(cores), out.tensor_split(cores), strict=True)
        with ThreadPoolExecutor(cores) as pool:
            for done in [pool.submit(copy_context().run, on_one_core, x, y) for x, y in pairs]:
                done.result()

    return run_all


def _check(pixels: Tensor, preprocessing: Preprocessing) -> None:
    size = preprocessing.resize_size
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (3, size, size):
        given = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(f"pixels are {given}, expected uint8 (N, 3, {size}, {size})")
