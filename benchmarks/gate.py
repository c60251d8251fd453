"""How often the gate promotes challengers whose true difference to the champion is known.

    python benchmarks/gate.py [--simulations 2000] [--output benchmarks/gate.md]

Every simulated evaluation goes through graft's own functions: `score`, `compare` and `decide`.

The model. An image is as hard as a standard normal number says. Two models find it so hard to degrees that
correlate by `correlation`, and a model is right where the degree is below the quantile of its true accuracy.
So each model's accuracy is exactly what was asked, and the correlation sets on how many images only one of
the two is right. Ten classes, all equally hard; a wrong answer is any other class.
"""

from __future__ import annotations

import argparse
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from graft.evaluation.candidates import Cost
from graft.evaluation.comparison import compare
from graft.evaluation.gate import Incumbent, Measured, decide
from graft.evaluation.scores import score, wilson
from graft.files import whole_file
from graft.params import Evaluation
from graft.progress import track

CLASSES = [f"class {number}" for number in range(10)]
CONFIDENCE = 0.85  # of every answer, so that calibration never decides
NOISE_RULES = ("gain", "gain_beyond_noise", "beyond_chance")
COST = Cost(parameters=1, size_mib=1.0, latency_ms=1.0)


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes:
        difference: True accuracy of every candidate minus the champion's.
        correlation: Of how hard two models find an image.
        champion: True accuracy.
        images: In the test set.
        candidates: The best of so many on the test images is the challenger.
        tolerance, min_gain: The gate's limits.
    """

    difference: float
    correlation: float = 0.9
    champion: float = 0.85
    images: int = 500
    candidates: int = 1
    tolerance: float = 0.0
    min_gain: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How many of `simulations` the gate promoted, and what the same simulations would else have given.

    Attributes:
        promoted: By all rules.
        by_noise_rules: By the rules on the overall difference alone.
        by_bootstrap: By the gain and the bootstrap's lower end alone.
        disagreement: Mean share of images that only one of the two predicts right.
    """

    setting: Setting
    simulations: int
    promoted: int
    by_noise_rules: int
    by_bootstrap: int
    disagreement: float


def main() -> None:
    """Simulate all settings and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("gate.md"))
    arguments = parser.parse_args()
    outcomes = {name: run(rows, name, arguments.simulations) for name, rows in settings().items()}
    with whole_file(arguments.output) as temporary:
        temporary.write_text(document(outcomes, arguments.simulations), encoding="utf-8")


def settings() -> dict[str, list[Setting]]:
    """The rows of each table."""
    steps = (0.0, 0.01, 0.03)
    limits = [(0.0, 0.0), (0.0, 0.01), (0.01, 0.0), (0.02, 0.0)]
    sizes = (100, 250, 500, 1000, 2000)
    return {
        "default": [Setting(step, correlation) for correlation in (0.99, 0.9, 0.7) for step in steps],
        "candidates": [Setting(step, candidates=4) for step in steps],
        "few": [Setting(0.0, correlation, images=n) for n in sizes for correlation in (0.99, 0.9)],
        "limits": [Setting(d, tolerance=t, min_gain=g) for t, g in limits for d in (-0.02, -0.01, *steps)],
        "power": [Setting(step, images=n) for n in sizes for step in steps[1:]],
    }


def run(rows: Iterable[Setting], name: str, simulations: int) -> list[Outcome]:
    """All rows of one table."""
    rows = list(rows)
    return [simulate(row, simulations) for row in track(rows, name, total=len(rows), unit="settings")]


def simulate(setting: Setting, simulations: int) -> Outcome:
    """Draw evaluations and ask the gate about each."""
    generator = np.random.default_rng(zlib.crc32(repr(setting).encode()))
    passed: Counter[str] = Counter()
    disagreement = 0.0
    for _ in range(simulations):
        failed, apart = evaluation(setting, generator)
        disagreement += apart / simulations
        passed["all"] += not failed
        passed["noise"] += not failed & set(NOISE_RULES)
        passed["bootstrap"] += not failed & set(NOISE_RULES[:2])
    return Outcome(setting, simulations, passed["all"], passed["noise"], passed["bootstrap"], disagreement)


def evaluation(setting: Setting, generator: np.random.Generator) -> tuple[set[str], float]:
    """One evaluation: the rules that refuse, and the share of images on which the two models differ."""
    labels = np.arange(setting.images) % len(CLASSES)
    shared = generator.standard_normal(setting.images)
    champion = answers(shared, setting.champion, setting.correlation, labels, generator)
    better = setting.champion + setting.difference
    candidates = [
        answers(shared, better, setting.correlation, labels, generator) for _ in range(setting.candidates)
    ]
    challenger = max(candidates, key=lambda predicted: int((predicted == labels).sum()))
    right, other = challenger == labels, champion == labels
    params = Evaluation(tolerance=setting.tolerance, min_gain=setting.min_gain)
    rules = decide(
        Measured(score(probabilities(challenger), labels, CLASSES), COST),
        Incumbent("1", score(probabilities(champion), labels, CLASSES)),
        compare(right, other, resamples=params.bootstrap, seed=int(generator.integers(2**31))),
        params,
        chosen_from=setting.candidates,
    )
    return {rule.rule for rule in rules if not rule.passed}, float((right != other).mean())


def answers(
    shared: np.ndarray,
    accuracy: float,
    correlation: float,
    labels: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Predicted classes (N,) of a model with this true accuracy."""
    own = generator.standard_normal(len(shared))
    hardness = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    wrong = (labels + generator.integers(1, len(CLASSES), len(labels))) % len(CLASSES)
    return np.where(hardness < norm.ppf(accuracy), labels, wrong)


def probabilities(predicted: np.ndarray) -> np.ndarray:
    """(N, C) with the same confidence everywhere."""
    rest = (1 - CONFIDENCE) / (len(CLASSES) - 1)
    return rest + (CONFIDENCE - rest) * np.eye(len(CLASSES))[predicted]


PAGE = """# How often the gate promotes

Challengers of known true difference go through the gate's own functions, with the default limits
unless a table says otherwise. Champion: 85 % true accuracy; ten classes; {simulations} simulated evaluations
a row; brackets hold the 95 % interval of a share (Wilson). Made by

```
python benchmarks/gate.py --simulations {simulations}
```

with fixed seeds, so a second run gives the same numbers.

Two models find an image hard to degrees that correlate by 0.99, 0.9 or 0.7, and each is right up to the
hardness that gives it its true accuracy. On how many images only one of the two is then right is the
column "differ": a few percent as between two trainings of one network, up to a seventh as between
networks that have little in common.

"All rules" is the gate. "Difference rules" leaves out the rule that no class may fall by more than
10 points, which refuses some more by chance: without it the rest still has to hold its level. "Bootstrap
alone" is what the gain and the bootstrap's lower end would promote without McNemar's exact test.

**False promotions, 500 images, true difference 0: at most {worst} by all rules. At most {worst_noise} by the
difference rules alone, over 100 to 2000 images. By the bootstrap alone: up to {worst_bootstrap}.**

This holds for each evaluation by itself: many retrainings against the same test images have as many
chances to be lucky, which nothing here corrects.

## 500 test images

{default}

## The best of four candidates, chosen on the same 500 images

Where there are too few validation images, the test images choose the winner too. The best of four equals
has four chances to be lucky, so the exact test's level is shared by them.

{candidates}

## No true difference, few or many test images

{few}

## What `tolerance` and `min_gain` do, 500 images

With a tolerance the question is no longer "is it better" but "is it not worse by more than this": equal
challengers that happen to score higher then pass often, by design, and the row to watch is the one whose
true difference is minus the tolerance.

{limits}

## Test images needed

{power}
"""
SHOWN = {
    "default": ("difference", "differ"),
    "candidates": ("difference", "differ"),
    "few": ("images", "differ"),
    "limits": ("tolerance", "min_gain", "difference"),
    "power": ("images", "difference", "differ"),
}


def document(outcomes: dict[str, list[Outcome]], simulations: int) -> str:
    """The tables with what they say, Markdown."""
    main = [row for row in outcomes["default"] + outcomes["candidates"] if row.setting.difference == 0]
    false = [*main, *outcomes["few"]]
    tables = {name: table(rows, SHOWN[name]) for name, rows in outcomes.items()}
    return PAGE.format(
        simulations=simulations,
        worst=highest(row.promoted / row.simulations for row in main),
        worst_noise=highest(row.by_noise_rules / row.simulations for row in false),
        worst_bootstrap=highest(row.by_bootstrap / row.simulations for row in false),
        **tables,
    )


def highest(shares: Iterable[float]) -> str:
    """The largest share, in percent."""
    return f"{100 * max(shares):.1f} %"


COLUMNS = {
    "difference": ("true difference", lambda row: f"{100 * row.setting.difference:+.0f} points"),
    "differ": ("differ", lambda row: f"{100 * row.disagreement:.1f} %"),
    "images": ("test images", lambda row: str(row.setting.images)),
    "tolerance": ("tolerance", lambda row: f"{row.setting.tolerance:g}"),
    "min_gain": ("min_gain", lambda row: f"{row.setting.min_gain:g}"),
}


def table(rows: list[Outcome], columns: tuple[str, ...]) -> str:
    """Rows as a Markdown table: the columns asked for, then what was promoted."""
    titles = [COLUMNS[name][0] for name in columns]
    heads = [*titles, "promoted: all rules", "difference rules", "bootstrap alone"]
    cells = [
        [COLUMNS[name][1](row) for name in columns]
        + [share(n, row.simulations) for n in (row.promoted, row.by_noise_rules, row.by_bootstrap)]
        for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *cells])


def share(count: int, total: int) -> str:
    """Such as "4.2 % (3.4 to 5.2)"."""
    low, high = wilson(count, total)
    return f"{100 * count / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
