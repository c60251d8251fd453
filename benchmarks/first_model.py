"""How long until there is a first usable model: ants and bees, MobileNetV2, this machine.

    python benchmarks/first_model.py --shared ../shared > benchmarks/first_model.md

graft: `graft retrain` with recipes/quick.yaml in an empty project, from the command to the registered
champion: wall time, imports included. fastai: `fine_tune(5)` (see peers.py for what it needs); wall time with
its imports, and that of the training alone. Both are judged on the set's own 153 test photographs, and both
take turns, in an order that is drawn for each repetition.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from chain import GRAFT, ROOT, machine, run

FASTAI = """
import sys, time
from pathlib import Path
from peers import fastai_fine_tune
import fastai.vision.all
start = time.monotonic()
accuracy = fastai_fine_tune(Path(sys.argv[1]), Path(sys.argv[2]), epochs=6, seed=int(sys.argv[3]))
print(accuracy, time.monotonic() - start)
"""


def with_graft(photographs: Path, weights: Path, seed: int) -> dict[str, float]:
    """The quick chain in a project of its own; seconds by step come from its records."""
    with tempfile.TemporaryDirectory() as folder:
        overlays = [ROOT / "params.yaml", ROOT / "recipes/ants-bees.yaml", ROOT / "recipes/quick.yaml"]
        options = [word for overlay in overlays for word in ("--params", str(overlay))]
        options += ["--set", f"backbone.weights={weights}", "--set", f"feature_extraction.seed={seed}"]
        start = time.monotonic()
        done = run([GRAFT, "retrain", *options, "--data", str(photographs)], Path(folder))
        wall = time.monotonic() - start
        summary = json.loads((Path(folder) / "runs/latest/summary.json").read_text())
        if not (summary.get("registered") or {}).get("champion"):
            raise SystemExit(f"no champion: {done.stdout[-2000:]}")
        accuracy = summary["candidates"]["probe"]["accuracy"]
        return {"wall": wall, "accuracy": accuracy, **summary["seconds"]}


def with_fastai(photographs: Path, weights: Path, seed: int) -> dict[str, float]:
    """fine_tune(5): one epoch of the head, five of all layers."""
    start = time.monotonic()
    command = [sys.executable, "-c", FASTAI, str(photographs), str(weights), str(seed)]
    done = run(command, Path(__file__).parent)
    accuracy, training = (float(word) for word in done.stdout.split()[-2:])
    return {"wall": time.monotonic() - start, "accuracy": accuracy, "training": training}


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    shared = given.shared.resolve()
    weights = next((shared / "weights").glob("mobilenet_v2-*.pth"))
    ways: dict[str, Callable[..., dict[str, Any]]] = {"graft": with_graft, "fastai": with_fastai}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "ants-bees"
        run([GRAFT, "import", str(shared / "data/hymenoptera_256.zip"), str(photographs)], Path(folder))
        # graft takes the set's `val` for its test split; peers.py asks for a folder of that name.
        (Path(folder) / "peers").mkdir()
        for name, split in (("train", "train"), ("test", "val")):
            (Path(folder) / "peers" / name).symlink_to(photographs / split)
        places = {"graft": photographs, "fastai": Path(folder) / "peers"}
        for seed in range(given.repetitions):
            for name in random.Random(seed).sample(sorted(ways), len(ways)):
                found[name].append(ways[name](places[name], weights, seed))
                print(seed, name, found[name][-1], file=sys.stderr, flush=True)
    print(f"# The first usable model\n\n{machine()}. {given.repetitions} repetitions in turns; medians.\n")
    print("| | wall s | training alone s | accuracy % (lowest to highest) |\n|---|---|---|---|")
    titles = {"graft": "`graft retrain`, quick.yaml, to the champion", "fastai": "fastai `fine_tune(5)`"}
    for name, title in titles.items():
        rows = found[name]
        accuracies = sorted(100 * row["accuracy"] for row in rows)
        training = f"{median(row['training'] for row in rows):.0f}" if name == "fastai" else ""
        spread = f"{median(accuracies):.1f} ({accuracies[0]:.1f} to {accuracies[-1]:.1f})"
        print(f"| {title} | {median(row['wall'] for row in rows):.0f} | {training} | {spread} |")
    steps = [key for key in found["graft"][0] if key not in ("wall", "accuracy")]
    seconds = [f"{key} {median(row[key] for row in found['graft']):.1f}" for key in steps]
    print(f"\nOf graft's steps, s: {', '.join(seconds)}")


if __name__ == "__main__":
    main()
