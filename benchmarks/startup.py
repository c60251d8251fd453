"""What it costs to start a step, and how much of that is graft's own.

    python benchmarks/startup.py > benchmarks/startup.md

Of each step: `python -m components STEP --help` (which imports Kubeflow's SDK, as that is where a step is
declared) beside `import kfp.dsl` alone; and the step's module as a pipeline starts it, `import
graft.steps.STEP`, beside the same packages of others imported without graft. The four take turns; what is
graft's own is the median of the paired differences. All four end as a step does, without a last search for
garbage.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from statistics import median

from chain import ROOT, machine, run

from components.__main__ import STEPS

OURS = ("graft", "components", "pipelines")
COLUMNS = (  # heading, whose seconds, less whose
    ("`--help`", "help", ""),
    ("`import kfp.dsl`", "kfp", ""),
    ("own", "help", "kfp"),
    ("the step's module", "module", ""),
    ("others' packages in it", "others", ""),
    ("own", "module", "others"),
)


def commands(step: str) -> dict[str, list[str]]:
    """The four that take turns."""
    module = f"import graft.steps.{step}"
    others = "; ".join(f"import {name}" for name in of_others(module))
    return {
        "help": ["-m", "components", step, "--help"],
        "kfp": ["-c", "import gc, kfp.dsl; gc.freeze()"],
        "module": ["-c", module],
        "others": ["-c", f"import gc, graft; {others}; gc.freeze()"],
    }


def of_others(statement: str) -> list[str]:
    """What graft's modules import of others, in their order: modules whose importer is graft's."""
    done = python(["-X", "importtime", "-c", statement])
    lines = re.findall(r"^import time: +\d+ \| +\d+ \|( +)(\S+)$", done.stderr, re.MULTILINE)
    found: list[str] = []
    inside = [(len(space) // 2, name) for space, name in reversed(lines)]  # importers before what they import
    importers: list[tuple[int, str]] = []
    for depth, name in inside:
        importers = [each for each in importers if each[0] < depth]
        foreign = name.partition(".")[0] not in OURS
        if foreign and all(each.partition(".")[0] in OURS for _, each in importers):
            found.append(name)
        importers.append((depth, name))
    return found[::-1]


def python(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A new interpreter that must succeed."""
    return run([sys.executable, *arguments], ROOT)


def seconds(arguments: list[str]) -> float:
    """Wall time of a new interpreter."""
    start = time.monotonic()
    python(arguments)
    return time.monotonic() - start


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    print(f"# Starting a step\n\n{machine()}. {given.repetitions} repetitions in turns; medians, s.\n")
    print(f"| step | {' | '.join(heading for heading, _, _ in COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for step in STEPS:
        taken = commands(step)
        each = [{name: seconds(own) for name, own in taken.items()} for _ in range(given.repetitions)]
        cells = [median(row[name] - row.get(less, 0) for row in each) for _, name, less in COLUMNS]
        print(f"| {step} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
