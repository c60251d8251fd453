"""Where training runs."""

from __future__ import annotations

import os

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
