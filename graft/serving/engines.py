"""A network in the form of other programs, and those programs running it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.backbones.classifier import Classifier
from graft.backbones.engine import Prepared, openvino_package

INPUT, OUTPUT = "pixels", "probabilities"
Run = Callable[[Tensor], np.ndarray]  # uint8 (N, 3, R, R) -> float32 (N, C)


class PixelsToProbabilities(Prepared):
    """A classifier with its crop, its normalisation and the softmax, so that none of them can be forgotten.

    Shape:
        uint8 (N, 3, R, R) -> float32 (N, C)
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__(model, model.config.preprocessing)

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels).softmax(1)


def write_torch_export(model: Classifier, folder: Path) -> None:
    """Write `model.pt2`, for torch.export.load."""
    torch.export.save(_program(model), folder / "model.pt2")


def write_onnx(model: Classifier, folder: Path) -> None:
    """Write `model.onnx`; its parameters are in it up to ONNX's limit of 2 GB."""
    with _quiet():
        onnx = torch.onnx.export(
            _program(model),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: "batch"}},
            verbose=False,
        )
    assert onnx is not None  # with dynamo it never is
    onnx.save(folder / "model.onnx")


def write_openvino(model: Classifier, folder: Path) -> None:
    """Write `model.xml` and `model.bin`, in float32."""
    with openvino_package() as openvino, _quiet():
        converted = openvino.convert_model(_program(model))
        side = model.config.preprocessing.resize_size
        converted.reshape({converted.inputs[0]: openvino.PartialShape([-1, 3, side, side])})
        converted.inputs[0].set_names({INPUT})
        converted.outputs[0].set_names({OUTPUT})
        openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)


def run_torch_export(folder: Path) -> Run:
    """What `write_torch_export` wrote, run by torch."""
    module = torch.export.load(folder / "model.pt2").module()

    def run(pixels: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(module(pixels))

    return run


def run_onnx(folder: Path) -> Run:
    """What `write_onnx` wrote, run by ONNX Runtime on the CPU."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run([OUTPUT], {INPUT: pixels.numpy()})[0])


def run_openvino(folder: Path) -> Run:
    """What `write_openvino` wrote, run by OpenVINO on the CPU in float32.

    Left to itself OpenVINO takes bfloat16 where the CPU has it: faster, and off by more than rounding.
    """
    with openvino_package() as openvino:
        precision = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", precision)
    return lambda pixels: np.array(compiled({INPUT: pixels.numpy()})[OUTPUT])


def _program(model: Classifier) -> torch.export.ExportedProgram:
    side = model.config.preprocessing.resize_size
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)  # of one image the 1 would become fixed
    batch = torch.export.Dim("batch", min=1)
    module = PixelsToProbabilities(model).eval()
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes={"pixels": {0: batch}})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
