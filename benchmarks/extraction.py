"""Feature extraction from JPEG files, beside what people run today; writes extraction.md.

    python benchmarks/extraction.py --shared ../shared

One row needs `datasets`, on which graft does not depend; without it the row is left out:

    pip install --target /tmp/peers --no-deps datasets dill multiprocess xxhash
    PYTHONPATH=/tmp/peers python benchmarks/extraction.py --shared ../shared

Each contender is a process of its own that stays alive: imports and models are made once, and a first batch
is not counted. In each repetition all of them do the same files, in an order drawn anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extraction_peers import CONTENDERS, backbone, jpegs
from extraction_table import page

from graft.backbones.engine import cosines
from graft.backbones.features import extract
from graft.backbones.inputs import stack_pixels
from graft.backbones.precision import computing_in, in_words
from graft.backbones.trunk import save_backbone
from graft.images.table import read_table
from graft.images.validation import validate
from graft.methods.logistic import logistic
from graft.methods.probe import LabelledFeatures
from graft.params import Data, FeatureExtraction
from graft.steps.stored_features import features_of, open_store

NETWORKS = ("resnet18", "mobilenet_v2")
ZIPS = ("imagenet_sample_256.zip", "imagenette_1500.zip")  # photographs, 256 pixels on the shorter side
MORE = 0.01  # of the images, added for the second extraction


@dataclass
class Process:
    """A contender at work on one network."""

    name: str
    network: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, name: str, network: str, folder: Path, shared: Path) -> Process:
        """Wait until it is ready; the others are idle meanwhile."""
        script = Path(__file__).with_name("extraction_peers.py")
        command = [sys.executable, str(script), name, network, str(folder), str(shared)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made = cls(name, network, process)
        if made._answer() != "ready":
            raise RuntimeError(f"{name} cannot run {network}")
        return made

    def seconds(self, count: int, file: Path | None = None) -> float:
        """From the files to the features."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([count, str(file or "")]) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def stop(self) -> None:
        """Let it end."""
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def measure(network: str, folder: Path, shared: Path, images: int, repetitions: int) -> dict[str, Any]:
    """Seconds of every repetition by contender, and how near graft's features are to torch's."""
    names = [name for name in CONTENDERS if "datasets" not in name or importlib.util.find_spec("datasets")]
    running = [Process.start(name, network, folder, shared) for name in names]
    found: dict[str, list[float]] = {name: [] for name in names}
    files = {name: folder.parent / f"{network} {number}.npy" for number, name in enumerate(names)}
    for _ in range(repetitions):
        for each in random.sample(running, len(running)):
            found[each.name].append(each.seconds(images, files[each.name]))
            print(f"{network}: {each.name}: {images / found[each.name][-1]:.1f} images/s", flush=True)
    for each in running:
        each.stop()
    mine = np.load(files["graft"])
    exact = _in_float32(network, jpegs(folder)[:images], shared)
    loop = np.load(files["torchvision + DataLoader"])
    near = {"same pixels": float(cosines(mine, exact).min()), "whole path": float(cosines(mine, loop).min())}
    return {"network": network, "seconds": found, "cosine": near}


def _in_float32(network: str, files: list[Path], shared: Path) -> np.ndarray:
    trunk, config = backbone(network, shared)
    with computing_in("float32"):
        return extract(trunk, config, stack_pixels(files, config.preprocessing), 64).numpy()


def rerun(network: str, folder: Path, shared: Path, images: int, repetitions: int) -> dict[str, Any]:
    """Seconds of an extraction of all images by an empty store, and of one with 1 % more of them."""
    trunk, config = backbone(network, shared)
    save_backbone(trunk, config, folder.parent / network)
    table = _table(folder)
    index = table.select()
    more = len(index) - max(1, round(MORE * len(index)))
    found: dict[str, list[float]] = {"full": [], "more": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=folder.parent) as home:
            os.environ["GRAFT_HOME"] = home
            store = open_store(FeatureExtraction(), trunk, config, network)
            for name, rows in (("full", index[:more]), ("more", index)):
                start = time.monotonic()
                features_of(table, rows, None, trunk, config, FeatureExtraction(), store)
                found[name].append(time.monotonic() - start)
            del os.environ["GRAFT_HOME"]
    return {"images": more, "added": len(index) - more, **found}


def _table(folder: Path):  # type: ignore[no-untyped-def]
    made = folder.parent / "table"
    if not made.exists():
        lenient = Data(
            max_duplicate_fraction=1, max_leak_fraction=1, max_imbalance=1e6, min_images_per_class=1
        )
        validate(folder, lenient, made, folder.parent / "docs")
    return read_table(made)


def accuracies(folder: Path, shared: Path) -> dict[str, tuple[int, int]]:
    """Right answers of a linear probe on ants and bees, and of how many, by whose features."""
    with zipfile.ZipFile(shared / "data" / "hymenoptera_256.zip") as archive:
        archive.extractall(folder)
    parts = {part: next(path for path in folder.rglob(part) if path.is_dir()) for part in ("train", "val")}
    labels = {
        part: np.array([f.parent.name == "bees" for f in jpegs(place)], int) for part, place in parts.items()
    }
    found = {}
    for name in ("graft", "torchvision + DataLoader"):
        vectors = {
            p: CONTENDERS[name]("mobilenet_v2", place, shared)(len(labels[p])) for p, place in parts.items()
        }
        train = LabelledFeatures(vectors["train"], labels["train"], np.ones(len(labels["train"])))
        none = LabelledFeatures(vectors["train"][:0], labels["train"][:0], np.zeros(0))
        head, _ = logistic(train, none, 2, FeatureExtraction())
        with torch.no_grad():
            right = head(torch.from_numpy(vectors["val"])).argmax(1).numpy() == labels["val"]
        found[name] = (int(right.sum()), len(right))
    return found


def photographs(shared: Path, folder: Path, count: int) -> None:
    """So many JPEG files in one class folder, and one in another (a set has two classes)."""
    done = 0
    for number, name in enumerate(ZIPS):
        with zipfile.ZipFile(shared / "data" / name) as archive:
            for member in sorted(archive.namelist()):
                if done < count and member.lower().endswith((".jpg", ".jpeg")) and "__MACOSX" not in member:
                    place = folder / ("a" if done % 2 else "b") / f"{number} {Path(member).name}"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(archive.read(member))
                    done += 1


def main() -> None:
    """Measure, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    shared = options.shared.resolve()
    with tempfile.TemporaryDirectory(prefix="graft-extraction-") as place:
        folder = Path(place) / "photographs"
        photographs(shared, folder, options.images)
        count = len(jpegs(folder))
        rows = [measure(each, folder, shared, count, options.repetitions) for each in NETWORKS]
        again = {each: rerun(each, folder, shared, count, options.repetitions) for each in NETWORKS}
        right = accuracies(Path(place) / "hymenoptera", shared)
    machine = {"format": in_words(torch.device("cpu")), "threads": torch.get_num_threads()}
    options.out.write_text(page(rows, again, right, machine, count, options.repetitions), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
