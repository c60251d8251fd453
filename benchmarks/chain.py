"""Where the chain's time goes, what it costs to run it again, and how it grows.

    python benchmarks/chain.py > benchmarks/chain.md
    python benchmarks/chain.py --shared ../shared --growth >> benchmarks/chain.md

Each step runs as DVC runs it: a process of its own, with one GRAFT_HOME for all. Its seconds are split into
starting (the interpreter and all imports, also those made late), data (reading, decoding, augmenting and
storing images) and computing (the rest). Memory is the process's largest resident set.

Again: the default data without one image in a hundred, the same once more, then with it, in the same
GRAFT_HOME. The growth: N images of MNIST and N of MNIST-M, one epoch of everything, so that the work per
image stays the same.
"""

from __future__ import annotations

import argparse
import builtins
import functools
import importlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GRAFT = str(Path(sys.executable).with_name("graft"))
DATA = {  # what counts as data, by module
    "graft.files": ("folder_md5",),
    "graft.images.loading": ("load_images",),
    "graft.images.scanning": ("scan",),
    "graft.images.inspection": ("inspect",),
    "graft.images.table": ("read_table", "write_table"),
    "graft.images.views": ("load_view_pixels", "write_views"),
}
ONE_EPOCH = {
    "backbone": {"pretrain": {"epochs": 1}},
    "feature_extraction": {"path": 3},
    "fine_tuning": {"head_epochs": 1, "epochs": 1, "batch_size": 64, "baseline_epochs": 1},
    "domain_adaptation": {"epochs": 1, "target_epochs": 1},
}
IMAGES = (625, 2500, 10000)
Row = dict[str, float]


def run_chain(data: Path, params: Path, home: Path) -> dict[str, Row]:
    """Every step's seconds and memory, in a new folder of artifacts."""
    from pipelines.chain import steps_to

    with tempfile.TemporaryDirectory() as artifacts:
        return {
            step.name: run_step(step.name, data, params, Path(artifacts), home)
            for step in steps_to("registered")
        }


def run_step(step: str, data: Path, params: Path, artifacts: Path, home: Path) -> Row:
    """One step in a process of its own."""
    told = artifacts / "told.json"
    environment = {
        "GRAFT_HOME": str(home),
        "MLFLOW_TRACKING_URI": f"sqlite:///{artifacts}/mlflow.db",
        "PYTHONPATH": str(ROOT),
    }
    own = ["--step", step, "--data", str(data), "--params", str(params), "--artifacts", str(artifacts)]
    begun = time.time()
    command = [sys.executable, __file__, *own, "--told", str(told), "--begun", str(begun)]
    run(command, artifacts, **environment)
    seconds = time.time() - begun
    row: Row = json.loads(told.read_text())
    row["computing"] = seconds - row["starting"] - row["data"]
    return {"seconds": seconds, **row}


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that must succeed; `environment` is what differs from this process's own."""
    given = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        raise SystemExit(f"{' '.join(command)[:400]} failed:\n{said}")
    return done


def measure_step(given: argparse.Namespace) -> None:
    """In the step's process: run it, and write what was spent on what."""
    spent = {"starting": time.time() - given.begun, "data": 0.0}
    with clocked_imports(spent):
        from pipelines.chain import run_here, steps_to

        step = next(each for each in steps_to("registered") if each.name == given.step)
        run_here(step, given.params, given.data, given.artifacts)
    spent["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    given.told.write_text(json.dumps(spent))


@contextmanager
def clocked_imports(spent: dict[str, float]) -> Iterator[None]:
    """Add the time of every import to `starting`, one within another once; and clock what DATA names."""
    depth, open_ = 0, dict(DATA)
    plain, by_name = builtins.__import__, importlib.import_module

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal depth
            depth += 1
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                depth -= 1
                if not depth:
                    spent["starting"] += time.perf_counter() - start
                # Before the importer takes the function's name from the module.
                for name in [name for name in open_ if hasattr(sys.modules.get(name), open_[name][-1])]:
                    clock_functions(sys.modules[name], open_.pop(name), spent)

        return call

    builtins.__import__, importlib.import_module = clocked(plain), clocked(by_name)
    try:
        yield
    finally:
        builtins.__import__, importlib.import_module = plain, by_name


def clock_functions(module: Any, names: tuple[str, ...], spent: dict[str, float]) -> None:
    """Add the time in these functions to `data`, less the imports they make."""

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            start, imports, inner = time.perf_counter(), spent["starting"], spent["data"]
            try:
                return function(*arguments, **named)
            finally:
                taken = time.perf_counter() - start - (spent["starting"] - imports)
                spent["data"] = inner + taken  # one within another counts once

        return call

    for name in names:
        setattr(module, name, clocked(getattr(module, name)))


def default_chain(repetitions: int) -> Iterator[str]:
    """The table of the default chain and of its rerun."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        run([GRAFT, "import", "digits", str(data)], Path(folder))
        new = sorted(file for file in data.rglob("*") if file.is_file() and "test" not in file.parts)[::100]
        assert new, "no image is new in the rerun"
        runs: list[list[dict[str, Row]]] = []
        for number in range(repetitions):
            home, aside = Path(folder) / f"home{number}", Path(folder) / "aside"
            for file in new:
                move(file, aside / file.relative_to(data))
            runs.append([run_chain(data, ROOT / "params.yaml", home) for _ in range(2)])
            for file in new:
                move(aside / file.relative_to(data), file)
            runs[-1].append(run_chain(data, ROOT / "params.yaml", home))
            shutil.rmtree(home)
            print(f"repetition {number + 1} of {repetitions}", file=sys.stderr)
    yield f"# The default chain, step by step\n\n{machine()}. Medians of {repetitions} runs.\n"
    yield "| step | s | starting | data | computing | peak MiB | again: s | 1 % more images: s | starting |"
    yield "|---|---|---|---|---|---|---|---|---|"
    first, again, more = (
        {step: middle_of([run[which][step] for run in runs]) for step in runs[0][0]} for which in range(3)
    )
    parts = ("seconds", "starting", "data", "computing")
    for step, row in first.items():
        own = " | ".join(f"{row[part]:.1f}" for part in parts)
        later = f"{again[step]['seconds']:.1f} | {more[step]['seconds']:.1f} | {more[step]['starting']:.1f}"
        yield f"| {step} | {own} | {row['MiB']:.0f} | {later} |"
    own = " | ".join(f"{sum(row[part] for row in first.values()):.1f}" for part in parts)
    later = [(again, "seconds"), (more, "seconds"), (more, "starting")]
    sums = " | ".join(f"{sum(row[part] for row in run.values()):.1f}" for run, part in later)
    yield f"| all | {own} | | {sums} |"


def growth(shared: Path, repetitions: int) -> Iterator[str]:
    """The table of 1, 4 and 16 times as many images."""
    import yaml
    from adaptation_data import make_folder

    from graft.params import read_params

    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder) / "params.yaml"
        (Path(folder) / "one.yaml").write_text(yaml.safe_dump(ONE_EPOCH))
        whole = read_params([ROOT / "params.yaml", Path(folder) / "one.yaml"])
        params.write_text(yaml.safe_dump(whole.sections()))
        found: dict[int, dict[str, Row]] = {}
        for images in IMAGES:
            data = Path(folder) / f"data{images}"
            make_folder(f"mnist-{images}", shared, data)
            runs = []
            for number in range(repetitions):
                runs.append(run_chain(data, params, Path(folder) / f"home{images}-{number}"))
                print(f"{images} images, repetition {number + 1}", file=sys.stderr)
            found[images] = {step: middle_of([run[step] for run in runs]) for step in runs[0]}
    yield "\n# With 1, 4 and 16 times as many images\n"
    yield f"{machine()}. Medians of {repetitions} runs; one epoch of"
    yield "everything. Seconds without starting; their growth from 4 to 16 times, linear is 4; peak MiB.\n"
    yield f"| step | {' | '.join(f'{2 * n} images' for n in IMAGES)} | growth | MiB |"
    yield "|---|" + "---|" * (len(IMAGES) + 2)
    for step in found[IMAGES[0]]:
        seconds = [found[n][step]["seconds"] - found[n][step]["starting"] for n in IMAGES]
        peaks = " / ".join(f"{found[n][step]['MiB']:.0f}" for n in IMAGES)
        times = " | ".join(f"{each:.1f}" for each in seconds)
        yield f"| {step} | {times} | {seconds[-1] / max(seconds[-2], 0.01):.1f} | {peaks} |"


def middle_of(rows: list[Row]) -> Row:
    """The median of every number."""
    return {key: median(row[key] for row in rows) for key in rows[0]}


def move(file: Path, to: Path) -> None:
    """With the folders that it needs."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, to)


def machine() -> str:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


def options() -> argparse.Namespace:
    """From the command line; what follows --step is the script's own business."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    for name in ("--data", "--params", "--artifacts", "--told"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, and print a table."""
    given = options()
    if given.step:
        measure_step(given)
        return
    rows = (
        growth(given.shared.resolve(), given.repetitions)
        if given.growth
        else default_chain(given.repetitions)
    )
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
