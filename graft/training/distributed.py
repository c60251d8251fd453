"""Several processes teach one model: started by torchrun, each with its slice of every batch.

The model is not wrapped. Each step's gradients are averaged over the processes instead, so that every
process takes the same step and all hold the same weights; module names, hooks and checkpoints are those
of one process. Without torchrun everything here does nothing. The processes need one common folder for
checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from graft.training.device import best_device

SYNCHRONISED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def world() -> int:
    """How many processes train together; 1 without torchrun."""
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Which of them this one is, from 0; the first alone writes and speaks."""
    return distributed.get_rank() if _joined() else 0


@contextmanager
def join() -> Iterator[None]:
    """Within, this process is one of those that torchrun started (WORLD_SIZE > 1), if it was.

    They talk by NCCL on GPUs, one GPU each, and by Gloo on CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or _joined():
        yield
        return
    device = best_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        distributed.barrier()


def average(numbers: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes, the same on all: what they decide by it is one decision.

    Args:
        numbers: The same names in every process.
    """
    if world() == 1:
        return numbers
    device = best_device() if distributed.get_backend() == "nccl" else torch.device("cpu")
    # NaN and infinity are numbers too: one process's bad loss reaches all.
    values = torch.tensor([float(numbers[name]) for name in sorted(numbers)], dtype=torch.float64).to(device)
    distributed.all_reduce(values)
    means = (values / world()).tolist()
    return {**numbers, **dict(zip(sorted(numbers), means, strict=True))}


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in place and in one exchange.

    A parameter that has a gradient in some processes only counts as zero in the others, so nobody
    waits for it. One that has none in any keeps none, and the optimiser leaves it alone, as it would
    in one process with the whole batch.

    Args:
        parameters: The same in the same order in every process; all on one device.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    if world() == 1 or not learning:
        return
    present = torch.tensor([float(p.grad is not None) for p in learning], device=learning[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    together = torch.cat([present, *(gradient.reshape(-1) for gradient in gradients)])
    distributed.all_reduce(together)
    counts, *sums = together.split([len(learning), *(p.numel() for p in learning)])
    for parameter, gradient, total, count in zip(learning, gradients, sums, counts.tolist(), strict=True):
        if count:
            parameter.grad = gradient.copy_((total / world()).view_as(gradient))


@torch.no_grad()
def share_state(model: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    if world() > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor.detach(), src=0)


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Give every process the mean of the float buffers: BatchNorm's running statistics.

    A buffer that is the same everywhere, such as a frozen one, stays bit for bit what it was.
    """
    if world() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            first = buffer.clone()
            distributed.broadcast(first, src=0)
            # Of the differences, not of the values: (x + x + x) / 3 need not be x, and inf - inf is not 0.
            difference = torch.where(buffer == first, 0.0, buffer - first)
            distributed.all_reduce(difference)
            buffer.copy_(torch.where(difference == 0, first, first + difference / world()))


@contextmanager
def common_statistics(model: nn.Module) -> Iterator[None]:
    """Within, BatchNorm normalises by the statistics of the whole batch, on GPUs (Peng et al. 2018).

    torch's SyncBatchNorm has no CPU version: there, each process normalises by its own slice, and only
    the running statistics are averaged, at the end of an epoch. The layers stay the same objects, under
    the same names and with the same hooks, so that freezing holds; frozen ones normalise as ever.
    """
    on_gpus = world() > 1 and next(model.parameters()).is_cuda
    layers = [(part, type(part)) for part in model.modules() if on_gpus and type(part) in SYNCHRONISED]
    for layer, _ in layers:
        layer.__class__ = nn.SyncBatchNorm
        vars(layer)["process_group"] = None  # all of them
    try:
        yield
    finally:
        for layer, kind in layers:
            del vars(layer)["process_group"]
            layer.__class__ = kind


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
