"""Export of a classifier, checked against the original before anybody gets to see it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graft.backbones.classifier import Classifier
from graft.backbones.features import evaluating
from graft.errors import GraftError
from graft.files import sha256_file, whole_folder, write_json
from graft.images.preprocessing import Preprocessing
from graft.progress import say
from graft.serving import engines

TOLERANCE = 1e-3  # of a probability
ROUNDS, SECONDS = 25, 10.0  # of the timing, whichever ends first


class _Format(NamedTuple):
    """How a format is written, how it is run, and by which packages."""

    write: Callable[[Classifier, Path], None]
    run: Callable[[Path], engines.Run]
    packages: tuple[str, ...]


FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        "onnx": _Format(engines.write_onnx, engines.run_onnx, ("torch", "onnx", "onnxruntime")),
        "openvino": _Format(engines.write_openvino, engines.run_openvino, ("torch", "openvino")),
        "torch-export": _Format(engines.write_torch_export, engines.run_torch_export, ("torch",)),
    }
)


def export(
    model: Classifier, format_name: str, folder: str | Path, *, pixels: Tensor | None = None
) -> dict[str, Any]:
    """Write a classifier in another program's format, with `export.json` beside it.

    What is exported takes uint8 pixels (N, 3, R, R) of any N and gives probabilities (N, C): crop,
    normalisation and softmax are inside. It is loaded back and compared with the original first.

    Args:
        model: On the CPU.
        format_name: A key of FORMATS.
        folder: Where the files go; an earlier export there is replaced.
        pixels: Images uint8 (N, 3, R, R) to compare on; by default patterns and noise.

    Returns:
        What export.json says: classes, input, preprocessing, check, latency, files.

    Raises:
        GraftError: the folder holds something else, the format cannot express the network, or a
            probability differs by more than TOLERANCE. Then nothing is left behind.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    chosen = FORMATS[format_name]
    pixels = sample(model.config.preprocessing) if pixels is None else pixels
    with whole_folder(folder) as work, evaluating(model):
        say(f"exporting {model.config.name} as {format_name}")
        run = _written(model, format_name, work)
        difference = _difference(model, run, pixels, format_name)
        record = _description(model, format_name)
        record["check"] |= {"images": len(pixels), "max_difference": difference}
        record["latency"] = latency(model.predict_pixels, run, pixels[:1])
        record["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(work.iterdir())
        }
        record["versions"] = {name: version(name) for name in chosen.packages}
        write_json(work / "export.json", record)
    return record


def sample(preprocessing: Preprocessing) -> Tensor:
    """Seven images, the same at every call: coarse to fine noise, and plain grey.

    Returns:
        uint8 (7, 3, R, R).
    """
    side, generator = preprocessing.resize_size, torch.Generator().manual_seed(0)
    images = [torch.full((3, side, side), 128.0)]
    for cells in (2, 3, 5, 8, 16, side):
        noise = torch.rand(1, 3, cells, cells, generator=generator) * 255
        images.append(torch.nn.functional.interpolate(noise, (side, side), mode="bilinear")[0])
    return torch.stack(images).round().to(torch.uint8)


def latency(original: engines.Run, exported: engines.Run, pixels: Tensor) -> dict[str, Any]:
    """Median time of one call, original and exported in turn, so that both meet the same machine.

    Returns:
        original_ms and exported_ms; images (per call), rounds, threads (torch's).
    """
    taken: dict[str, list[float]] = {"original_ms": [], "exported_ms": []}
    start, rounds = time.monotonic(), 0
    while rounds <= ROUNDS and (rounds < 3 or time.monotonic() - start < SECONDS):
        for name, run in (("original_ms", original), ("exported_ms", exported)):
            begun = time.perf_counter()
            run(pixels)
            taken[name].append((time.perf_counter() - begun) * 1000)
        rounds += 1
    # The first call of each allocates and plans; it is not counted.
    medians = {name: round(statistics.median(values[1:]), 3) for name, values in taken.items()}
    return {**medians, "images": len(pixels), "rounds": rounds - 1, "threads": torch.get_num_threads()}


def _refuse_foreign(folder: Path) -> None:
    """What an export replaces must be an export."""
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not (folder / "export.json").is_file():
        raise GraftError(f"-o {folder} holds something that is no export", "name a new folder")


def _written(model: Classifier, format_name: str, work: Path) -> engines.Run:
    """The export, loaded from its files."""
    chosen = FORMATS[format_name]
    try:
        chosen.write(model, work)
        return chosen.run(work)
    except OSError:
        raise  # a full disk
    except Exception as error:  # exporters fail in ways of their own on what they cannot express
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise GraftError(
            f"{model.config.name} cannot be exported as {format_name}: {text}", _other(format_name)
        ) from error


def _difference(model: Classifier, run: engines.Run, pixels: Tensor, format_name: str) -> float:
    """The largest difference of a probability, over all images at once and over the first alone."""
    batches = (pixels, pixels[:1])
    found = max(float(np.abs(run(batch) - model.predict_pixels(batch)).max()) for batch in batches)
    if not found <= TOLERANCE:  # NaN neither
        raise GraftError(
            f"{model.config.name} exported as {format_name} gives other probabilities than the original: "
            f"they differ by up to {found:.3g}, and {TOLERANCE:g} is allowed; nothing was written",
            _other(format_name),
        )
    return found


def _other(format_name: str) -> str:
    return f"try another format: {', '.join(name for name in FORMATS if name != format_name)}"


def _description(model: Classifier, format_name: str) -> dict[str, Any]:
    """What whoever runs the export has to know."""
    preprocessing, side = model.config.preprocessing, model.config.preprocessing.resize_size
    how = (
        f"RGB, 0 to 255: the short side resized to {side} ({preprocessing.interpolation}, antialias), "
        f"then the centre {side} x {side}; the rest of the preprocessing is inside"
    )
    state = model.state_dict().values()
    return {
        "format": format_name,
        "backbone": model.config.name,
        "classes": list(model.classes),
        "input": {"name": engines.INPUT, "dtype": "uint8", "shape": ["N", 3, side, side], "is": how},
        "output": {"name": engines.OUTPUT, "dtype": "float32", "shape": ["N", len(model.classes)]},
        "preprocessing": preprocessing.to_dict(),
        "original_bytes": sum(each.numel() * each.element_size() for each in state),
        "check": {"tolerance": TOLERANCE, "inference_precision": "f32"},
    }
