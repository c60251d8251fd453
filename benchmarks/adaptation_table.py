"""The page that benchmarks/adaptation.py writes from its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

# What is reported of a run: its key, and the heading. A run without a choice has `last` alone.
ENDS = {"last": "last epoch", "label_free": "label-free choice", "best": "best epoch, by test labels"}
INTRODUCTION = """# Domain adaptation, measured

On one processor core, without a GPU. Made by

```
python benchmarks/adaptation.py --shared ../shared
python benchmarks/adaptation.py --table > benchmarks/adaptation.md
```

Accuracy on the target's test images in %, the mean over seeds and in brackets its 95 % interval
(Student's t over the seeds). "gap" is the share of the way from source only to the target oracle, in %.
All methods and peers start from the source-only network of their seed. Of MNIST-M they know no label, of
the default digits 100; there graft's last step, fine-tuning on these, is in "label-free choice". That
choice is graft's own vote; the best epoch is what test labels would choose, which nobody has. CPU seconds
are the fastest run's, of the adaptation alone (validators included, tests not); those of source only and
of the oracle are of training from scratch.
"""


def page(rows: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """Markdown: for each data and network the methods, then what each validator alone would choose.

    Args:
        rows: data, network, method, seed, and last, label_free, best, each (accuracies of 1), seconds (CPU);
            or skipped, the reason. One a run.
        order: Names of all methods, source only first and the target oracle last.
    """
    parts = [INTRODUCTION]
    for data, network in dict.fromkeys((row["data"], row["network"]) for row in rows):
        own = [row for row in rows if (row["data"], row["network"]) == (data, network)]
        runs = {name: _of(own, name) for name in order}
        runs = {name: found for name, found in runs.items() if found}
        parts += [f"## {data}, {network}\n", _methods(runs, order[0], order[-1])]
        if any("each" in row for row in own):
            parts += ["\nAccuracy of the state that each validator alone would choose:\n", _validators(runs)]
        parts.append("")
    return "\n".join(parts)


def _of(rows: Sequence[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    return sorted((row for row in rows if row["method"] == method), key=lambda row: row["seed"])


def _methods(runs: dict[str, list[dict[str, Any]]], source: str, oracle: str) -> str:
    heads = " | ".join(f"{title} | gap" for title in ENDS.values())
    lines = [f"| method | {heads} | seeds | CPU s |", "|---" * (2 * len(ENDS) + 3) + "|"]
    ends = {_key(row): row["last"] for row in (*runs.get(source, []), *runs.get(oracle, []))}
    for name, found in runs.items():
        good = [row for row in found if "skipped" not in row]
        if not good:
            lines.append(f"| {name} | {found[0]['skipped']} |" + " |" * (2 * len(ENDS) + 1))
            continue
        cells = []
        for end in ENDS:
            cells.append(_mean(good, end))
            cells.append(_gap(good, end, ends, source, oracle))
        seconds = min(row["seconds"] for row in good)
        lines.append(f"| {name} | {' | '.join(cells)} | {len(good)} | {seconds:.0f} |")
    return "\n".join(lines)


def _validators(runs: dict[str, list[dict[str, Any]]]) -> str:
    chosen = {name: [row for row in found if "each" in row] for name, found in runs.items()}
    chosen = {name: found for name, found in chosen.items() if found}
    names = list(next(iter(chosen.values()))[0]["each"])
    lines = [f"| method | {' | '.join(names)} | vote |", "|---" * (len(names) + 2) + "|"]
    means = {
        method: [
            *(np.mean([row["each"][name] for row in found]) for name in names),
            np.mean([row["label_free"] for row in found]),
        ]
        for method, found in chosen.items()
    }
    means["mean of the methods"] = list(np.mean(list(means.values()), axis=0))
    for method, values in means.items():
        lines.append(f"| {method} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")
    return "\n".join(lines)


def _gap(
    found: Sequence[dict[str, Any]], end: str, ends: dict[tuple[str, int], float], source: str, oracle: str
) -> str:
    """(method - source) / (oracle - source), of the means over the seeds that all three have."""
    seeds = [row["seed"] for row in found if end in row]
    common = [seed for seed in seeds if (source, seed) in ends and (oracle, seed) in ends]
    if not common or found[0]["method"] in (source, oracle):
        return "-"
    low, high = (np.mean([ends[name, seed] for seed in common]) for name in (source, oracle))
    own = np.mean([row[end] for row in found if row["seed"] in common])
    return f"{100 * (own - low) / (high - low):.0f}"


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["method"], row["seed"]


def _mean(found: Sequence[dict[str, Any]], end: str) -> str:
    percent = 100 * np.array([row[end] for row in found if end in row])
    if not len(percent):
        return "-"
    if len(percent) < 2 or not percent.std():
        return f"{percent.mean():.1f}"
    low, high = stats.t.interval(0.95, len(percent) - 1, percent.mean(), stats.sem(percent))
    return f"{percent.mean():.1f} ({max(low, 0.0):.1f} to {min(high, 100.0):.1f})"
