"""Frozen networks on a CPU in OpenVINO, which runs the same arithmetic several times as fast as torch.

What it gives is held against torch in float32 before anything is believed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.backbones.hooks import hooked
from graft.backbones.precision import number_format
from graft.images.preprocessing import Preprocessing
from graft.images.threads import one_core
from graft.progress import say

SAME = 0.995  # smallest cosine, of any image, to torch's features in float32
PROBED = 8  # images that are computed both ways
# OpenVINO starts in one to two seconds, and then saves mostly what torch needs to take the outputs of one
# layer to the next: about 4 s a thread for 10^9 numbers. From so many a thread on it is worth its start. A
# count, not a clock: the same work goes the same way each time, and so ends in the same bits.
WORTH = 5e8
# Bytes of a photograph. What layers give for one stays in a core's cache; of small images as many make a
# request, since to hand one over takes 0.2 ms: as long as a small network takes for six of 32 pixels.
REQUEST = 3 * 224 * 224

Run = Callable[[Tensor, Tensor], None]  # from uint8 (N, 3, R, R) into float32 (N, F)


class Prepared(nn.Module):
    """A network with its crop and its normalisation.

    Shape:
        uint8 (N, 3, R, R) -> what the network gives for (N, 3, S, S)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        size = preprocessing.input_size
        start = round((preprocessing.resize_size - size) / 2)
        self.inside = slice(start, start + size)  # known before a tracer looks
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels[..., self.inside, self.inside].float()
        output: Tensor = self.network((x / 255 - self.mean) / self.std)
        return output


def worthwhile(network: nn.Module, preprocessing: Preprocessing, images: int) -> bool:
    """Whether so many images are work enough for OpenVINO; one image is computed to count it."""
    numbers = 0

    def count(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal numbers
        numbers += output.numel()

    layers = [each for each in network.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    with hooked(layer.register_forward_hook(count) for layer in layers), torch.no_grad(), one_core():
        network(torch.zeros(1, 3, preprocessing.input_size, preprocessing.input_size))
    return images * numbers > WORTH * torch.get_num_threads()


def in_openvino(network: nn.Module, preprocessing: Preprocessing, pixels: Tensor, name: str) -> Run | None:
    """A network compiled for this CPU; None, with a line that says why, where torch has to do.

    A photograph, or some small images, are a request, several of which run at once. An image's features do
    not depend on the others.

    Args:
        network: On the CPU, in eval mode: (N, 3, S, S) -> (N, F).
        preprocessing: What is done to images before.
        pixels: uint8 (M, 3, R, R), M > 0: some of them are computed in torch as well.
        name: Of the network, for people.
    """
    threads = torch.get_num_threads()
    try:
        with one_core():
            run = _compiled(network, preprocessing, threads)
            worst = _agreement(run, network, preprocessing, pixels[:PROBED])
        problem = (
            None if worst >= SAME else f"its features agree with torch's to a cosine of {worst:.4f} only"
        )
    except Exception as error:  # a converter meets operators that it does not know in many ways
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
    if problem:
        say(f"{name}: OpenVINO cannot run it, so torch does: {problem}")
        return None
    return run


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row with its counterpart, two times (N, F) -> (N,); 1 of equal rows."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both = (one * other).sum(1)
    found: np.ndarray = np.where((one == other).all(1), 1.0, both / np.maximum(lengths, np.finfo(float).tiny))
    return found


@contextmanager
def openvino_package() -> Iterator[Any]:
    """The package; without its telemetry, which sends at the import unless a file at home forbids it."""
    name = "openvino_telemetry"
    loaded = {each: sys.modules.pop(each) for each in list(sys.modules) if each.split(".")[0] == name}
    sys.modules[name] = None  # type: ignore[assignment] # OpenVINO then takes its own stub
    try:
        import openvino

        yield openvino
    finally:
        del sys.modules[name]
        sys.modules.update(loaded)


def _compiled(network: nn.Module, preprocessing: Preprocessing, threads: int) -> Run:
    side = preprocessing.resize_size
    shape = [together(side), 3, side, side]
    bfloat16 = number_format(torch.device("cpu")) == torch.bfloat16
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # another process may have been given the same cores
    }
    with openvino_package() as openvino, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that are fixed here
        model = _converted(network, preprocessing, shape)
        model.inputs[0].get_node().set_element_type(openvino.Type.u8)
        model.reshape({model.inputs[0]: openvino.PartialShape(shape)})
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        queue = openvino.AsyncInferQueue(compiled)
    return lambda pixels, out: _run(queue, shape[0], pixels, out)


def together(side: int) -> int:
    """How many images of so many pixels a side are one request: a power of two."""
    return 2 ** max(0, int(np.log2(REQUEST / (3 * side * side))))


def _converted(network: nn.Module, preprocessing: Preprocessing, shape: list[int]) -> Any:
    """OpenVINO's model of a network for images of this shape.

    `openvino.convert_model` looks up every weight by its name and optimises what compiling optimises again.
    With the weights made constants first, and read by the frontend alone, that takes half the time.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(shape, dtype=torch.uint8)
    traced = torch.jit.trace(Prepared(network, preprocessing).eval(), example, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = TorchScriptPythonDecoder(torch.jit.freeze(traced), example_input=example, skip_freeze=True)
    return frontend.convert(frontend.load(graph))


def _run(queue: Any, size: int, pixels: Tensor, out: Tensor) -> None:
    images, rows = pixels.contiguous().numpy(), out.numpy()

    def receive(request: Any, start: int) -> None:
        here = rows[start : start + size]
        here[:] = request.get_output_tensor(0).data[: len(here)]

    queue.set_callback(receive)
    for start in range(0, len(images), size):
        some = images[start : start + size]
        if len(some) < size:  # the last ones: a request has one shape
            some = np.concatenate([some, np.zeros((size - len(some), *some.shape[1:]), some.dtype)])
        queue.start_async({0: some}, start)
    queue.wait_all()


def _agreement(run: Run, network: nn.Module, preprocessing: Preprocessing, pixels: Tensor) -> float:
    """The smallest cosine between OpenVINO's features of an image and torch's in float32."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        wanted = Prepared(network, preprocessing)(pixels).float()
    found = torch.empty_like(wanted)
    run(pixels, found)
    return float(np.nan_to_num(cosines(found.numpy(), wanted.numpy()), nan=-1.0).min())
