"""The page that benchmarks/extraction.py writes."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scipy import stats

INTRODUCTION = """# Feature extraction, measured

From {images} JPEG files (photographs of ImageNet, 256 pixels on the shorter side) to features at 224
pixels. Medians of {repetitions} paired repetitions in one run, in brackets the slowest and the fastest;
"faster" is the median of the ratios within a repetition. {machine}. Made by

```
PYTHONPATH=/tmp/peers python benchmarks/extraction.py --shared ../shared
```

graft's time holds the decoding, the start of its inference engine and the features. The peers run as
their documentation teaches it: float32, batches of 64, a process for each core that decodes. Models are in
memory before. timm's and transformers' networks have random weights, which cost the same.
"""


def page(
    rows: Sequence[Mapping[str, Any]],
    again: Mapping[str, Mapping[str, Any]],
    right: Mapping[str, tuple[int, int]],
    machine: Mapping[str, Any],
    images: int,
    repetitions: int,
) -> str:
    """Markdown.

    Args:
        rows: Of each network its seconds by contender, and cosines.
        again: Of each network the seconds of a full extraction and of one more with 1 % added.
        right: Right answers of the probe, and of how many, by contender.
        machine: Number format and threads.
        images: How many there were.
        repetitions: Of each contender.
    """
    told = f"{_processor()}, {machine['threads']} threads, {machine['format']}; {_versions()}"
    parts = [INTRODUCTION.format(images=images, repetitions=repetitions, machine=told)]
    for row in rows:
        parts += [f"## {row['network']}\n", _contenders(row["seconds"], images), ""]
        near = row["cosine"]
        parts.append(
            f"Smallest cosine of any image's features to torch in float32: {near['same pixels']:.6f} of the "
            f"same pixels, {near['whole path']:.6f} to torchvision's loop with its own decoding.\n"
        )
        parts.append(_rerun(again[row["network"]]))
    parts += ["## A linear probe on ants and bees, MobileNetV2\n", "| features of | right | 95 % interval |"]
    parts.append("|---|---|---|")
    for name, (count, total) in right.items():
        low, high = stats.binomtest(count, total).proportion_ci(method="wilson")
        parts.append(f"| {name} | {count} of {total}, {count / total:.1%} | {low:.1%} to {high:.1%} |")
    return "\n".join(parts) + "\n"


def _contenders(seconds: Mapping[str, Sequence[float]], images: int) -> str:
    lines = ["| | images/s | graft is faster by |", "|---|---|---|"]
    for name, each in seconds.items():
        rates = sorted(images / value for value in each)
        ratios = [other / own for own, other in zip(seconds["graft"], each, strict=True)]
        faster = "" if name == "graft" else f"{statistics.median(ratios):.1f} times"
        rate = f"{statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f})"
        lines.append(f"| {name} | {rate} | {faster} |")
    return "\n".join(lines)


def _rerun(again: Mapping[str, Any]) -> str:
    full, more = (statistics.median(again[name]) for name in ("full", "more"))
    share = statistics.median(b / a for a, b in zip(again["full"], again["more"], strict=True))
    return (
        f"Again with 1 % more images, from the feature store: {more:.2f} s for {again['images']} + "
        f"{again['added']} images, {share:.1%} of the {full:.2f} s of the full extraction.\n"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> str:
    found = []
    for name in ("torch", "torchvision", "openvino", "timm", "transformers", "datasets"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
