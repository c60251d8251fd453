"""Where training runs, and in which number format."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from graft.errors import GraftError


def best_device() -> torch.device:
    """The first GPU, else the CPU; under torchrun, the GPU of this process.

    Raises:
        GraftError: torchrun started more processes here than there are GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda")
    mine, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if mine >= gpus:
        raise GraftError(
            f"process {mine} of torchrun (counted from 0) finds {gpus} GPUs on this machine",
            f"give torchrun --nproc-per-node {gpus}",
        )
    return torch.device("cuda", mine)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on a GPU; full float32 elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
