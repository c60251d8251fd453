"""The page that benchmarks/methods.py writes from its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

HEAD = "| method | accuracy, % | 95 % interval | each seed | seconds |\n|---|---|---|---|---|"
INTRODUCTION = """# Transfer methods, measured

MobileNetV2 with ImageNet weights (SqueezeNet 1.1 where a second network is named), 224 pixels, on one
processor core without a GPU. Made by

```
python benchmarks/methods.py --shared ../shared
python benchmarks/methods.py --table > benchmarks/methods.md
```

An interval is Student's t over the seeds: it says how far another seed would move the mean, not how far
other test images would, which for 153 photographs is four points more on either side. No test image chose
an epoch, a strength or a knob: there are no validation images, the last epoch counts, and the strengths
of linear probes come from five-fold cross-validation on the training images.

Seconds are of the fastest seed, one process on one core, with other work on the machine: read them against
each other, a third up or down. What starts from a probe includes the probe's. `lora` has no row: it is for
transformers, and MobileNetV2 is none. The networks of the other tables see every image more often, as the
rule for few images says, so the same method has other seconds there.
"""


def page(rows: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """Markdown: one table for ants and bees, and one for each number of imagenette's images.

    Args:
        rows: case, seed, accuracy (of 1), seconds; one a run.
        order: Names of all cases.
    """
    parts = [INTRODUCTION, "## Ants and bees\n\n244 training photographs, 153 test photographs.\n"]
    parts.append(_table(rows, [name for name in order if not name.startswith("imagenette-")]))
    for count in (5, 10, 100):
        prefix = f"imagenette-{count} "
        parts.append(f"\n## Imagenette, {count} images of each class\n\nTen classes, 500 test photographs.\n")
        parts.append(_table(rows, [name for name in order if name.startswith(prefix)], prefix))
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str], prefix: str = "") -> str:
    lines = [HEAD]
    for name in names:
        runs = sorted((row for row in rows if row["case"] == name), key=lambda row: row["seed"])
        if runs:
            lines.append(_line(name.removeprefix(prefix), runs))
    return "\n".join(lines)


def _line(name: str, runs: Sequence[dict[str, Any]]) -> str:
    percent = 100 * np.array([row["accuracy"] for row in runs])
    each = ", ".join(f"{value:.1f}" for value in percent)
    seconds = min(row["seconds"] for row in runs)
    return f"| {name} | {percent.mean():.1f} | {_interval(percent)} | {each} | {seconds:.0f} |"


def _interval(percent: np.ndarray) -> str:
    if len(percent) < 2:
        return "-"
    if not percent.std():
        return f"{percent.mean():.1f} to {percent.mean():.1f}"
    low, high = stats.t.interval(0.95, len(percent) - 1, percent.mean(), stats.sem(percent))
    return f"{low:.1f} to {min(high, 100.0):.1f}"
