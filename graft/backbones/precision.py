"""In which number format and memory layout networks compute: what the hardware is fast in, unless asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_asked: ContextVar[str] = ContextVar("precision", default="auto")


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Within, networks compute in this format; nested, the inner one counts.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware has units for it.
    """
    if precision != "auto" and precision not in FORMATS:
        raise ValueError(f"{precision!r} is neither auto nor one of {', '.join(FORMATS)}")
    token = _asked.set(precision)
    try:
        yield
    finally:
        _asked.reset(token)


def number_format(device: torch.device) -> torch.dtype:
    """float32, or bfloat16: what is computed in here.

    Weights, statistics, losses and what comes out stay float32 in either case. On NVIDIA GPUs torch
    rounds the inputs of float32 convolutions to TF32, unless told otherwise.
    """
    if (asked := _asked.get()) != "auto":
        return FORMATS[asked]
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32.

    GPUs from NVIDIA's Ampere on and AMD's, and CPUs with AMX or AVX512-BF16; elsewhere it is emulated.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return any(abilities.get(unit, False) for unit in ("amx_bf16", "avx512_bf16"))
    return False


def autocast(device: torch.device, *, keeps_weights: bool = True) -> torch.autocast:
    """Within, matrix products and convolutions are computed in `number_format`.

    Args:
        device: Of the network.
        keeps_weights: Weights that learn are converted once and kept until the end, not at each use.
    """
    lower = number_format(device) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower, cache_enabled=keeps_weights)


def lay_out(module: nn.Module) -> None:
    """Put the weights of convolutions channels last, in place, where that is fast; no value changes.

    That is on CPUs, and on GPUs in bfloat16; images always come channels last.
    """
    device = next(module.parameters()).device
    if device.type == "cpu" or number_format(device) == torch.bfloat16:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def in_words(device: torch.device) -> str:
    """As in "bfloat16 on cuda"."""
    return f"{str(number_format(device)).removeprefix('torch.')} on {device.type}"
