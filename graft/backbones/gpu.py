"""Frozen networks on a GPU: copies, computing and launching at once, and one launch for a whole network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from graft.backbones.engine import SAME, Prepared, Run, cosines
from graft.backbones.precision import autocast
from graft.images.ahead import on_their_way
from graft.images.preprocessing import Preprocessing
from graft.progress import say

BATCHES = 8  # given to a GPU before anything waits for it
WORTH = 20  # batches: to capture a network and to try it costs five
Network = Callable[[Tensor], Tensor]  # uint8 (B, 3, R, R) -> (B, F), on the device


def on_gpu(
    network: nn.Module,
    preprocessing: Preprocessing,
    batch_size: int,
    pixels: Tensor,
    name: str,
    *,
    images: int,
) -> Run:
    """What computes features of `BATCHES` batches at a time, in `number_format`.

    Args:
        network: On the device, in eval mode and laid out: (B, 3, S, S) -> (B, F).
        preprocessing: What is done to images before.
        batch_size: B; whole batches run as one CUDA graph, where the network can be captured as one.
        pixels: uint8 (M, 3, R, R), M > 0: what it is tried on.
        name: Of the network, for people.
        images: How many there will be in all.
    """
    device = next(network.parameters()).device
    launched = _launched(network, preprocessing, device)
    whole = None
    if device.type == "cuda" and len(pixels) >= batch_size and images >= WORTH * batch_size:
        whole = _checked(launched, pixels[:batch_size].to(device), name)

    def run(images: Tensor, out: Tensor) -> None:
        with torch.inference_mode():
            made = [
                whole(batch).clone() if whole and len(batch) == batch_size else launched(batch)
                for batch in on_their_way(images, batch_size, device)
            ]
            out.copy_(torch.cat(made))  # waits for the device

    return run


def _launched(network: nn.Module, preprocessing: Preprocessing, device: torch.device) -> Network:
    """The network as torch runs it, one kernel after the other."""
    prepared = Prepared(network, preprocessing).to(device).eval()

    def run(batch: Tensor) -> Tensor:
        # Weights that were kept would be freed under a graph that reads them.
        with autocast(device, keeps_weights=False):
            made: Tensor = prepared(batch)
        return made.float()

    return run


def _checked(launched: Network, batch: Tensor, name: str) -> Network | None:
    """The network as one CUDA graph; None, with a line that says why, where it gives something else."""
    try:
        with torch.inference_mode():
            replayed = captured(launched, batch)
            wanted, found = (run(batch).cpu().numpy() for run in (launched, replayed))
        worst = float(np.nan_to_num(cosines(found, wanted), nan=-1.0).min())
        problem = None if worst >= SAME else f"its features agree to a cosine of {worst:.4f} only"
    except RuntimeError as error:  # operators that wait for the device, or choose by what they find
        problem = str(error).strip().splitlines()[0]
    if problem:
        say(f"{name}: no CUDA graph, so kernels are launched one by one: {problem}")
        return None
    return replayed


def captured(network: Network, example: Tensor) -> Network:
    """A network as one CUDA graph: its kernels are launched at once, not each by Python.

    Args:
        network: On a GPU; does nothing but launch kernels.
        example: Of the only shape that it will be given.

    Returns:
        The same function; what it returns is overwritten by its next call.
    """
    given = example.clone()
    aside = torch.cuda.Stream(given.device)
    aside.wait_stream(torch.cuda.current_stream(given.device))
    with torch.cuda.stream(aside):  # libraries choose their kernels and take their memory before
        for _ in range(3):
            network(given)
    torch.cuda.current_stream(given.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = network(given)

    def replay(batch: Tensor) -> Tensor:
        given.copy_(batch, non_blocking=True)
        graph.replay()
        return made

    return replay
