"""One trial: the steps that lead to a candidate, and its score on validation images.

Test images are not looked at: neither evaluation nor registration is among the steps.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from graft.errors import GraftError
from graft.files import read_json, whole_file
from graft.params import Params
from pipelines.chain import Step, run_here, sections_of, steps_to
from pipelines.environment import exported

Report = Callable[[int, float], None]
Listen = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Score:
    """On the labelled validation images: share answered right, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Place:
    """Where a trial works.

    Attributes:
        data: The data folder, or its address.
        folder: The trial's own; gets params.yaml, log.txt and steps/, the records of its steps.
        locks: Shared by the trials, so that two do not make the same thing at the same time.
    """

    data: str | Path
    folder: Path
    locks: Path


def score_trial(params: Params, objective: str, place: Place, report: Report, done: int = 0) -> Score:
    """Run the steps up to the candidate and measure it.

    Steps whose inputs, parameters and code are those of an earlier trial or run are reused.

    Args:
        params: The trial's, the whole of params.yaml.
        objective: The candidate: "probe", "fine_tuned" or "adapted".
        place: Where.
        report: Gets the number of epochs trained and their validation accuracy after each epoch of the
            candidate's step, and may raise to end the trial.
        done: Epochs that an interrupted attempt at this trial has reported.

    Raises:
        GraftError: a step failed or training diverged.
    """
    try:
        run_steps(params, steps_to(objective), place, _listener(report, done))
        return measure(place.folder / "artifacts" / objective, place.folder / "artifacts" / "images")
    finally:
        gc.collect()  # networks refer to themselves, and the next trial needs their memory


def run_steps(params: Params, steps: Sequence[Step], place: Place, listen: Listen | None = None) -> None:
    """Run steps one after the other; `listen` hears of the epochs of the last one.

    Raises:
        GraftError: what a step found wrong, with its name before it.
    """
    values = params.model_dump(mode="json")
    sections = {name: values[name] for name in sections_of(steps)}
    file = place.folder / "params.yaml"
    with whole_file(file) as temporary:
        temporary.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    with _printing_to(place.folder):
        for number, step in enumerate(steps, 1):
            so_far = {name: values[name] for name in sections_of(steps[:number])}
            with (
                held(place.locks / _digest(so_far), wait=True),
                _listening(listen if number == len(steps) else None),
            ):
                _run_one(step, file, place)


def _run_one(step: Step, params: Path, place: Place) -> None:
    try:
        run_here(step, params, place.data, place.folder / "artifacts")
    except GraftError as error:
        _forget(step, place.folder)
        raise GraftError(f"{step.name}: {error.problem}", error.fix) from error
    except Exception:
        _forget(step, place.folder)
        raise


def _forget(step: Step, folder: Path) -> None:
    """Delete the checkpoints of a step that will not go on: without that each lost trial keeps some."""
    record = folder / "steps" / f"{step.name}.json"
    if record.is_file() and (key := read_json(record).get("key")):
        shutil.rmtree(Path(os.environ["GRAFT_HOME"]) / "work" / step.name / key, ignore_errors=True)


@contextlib.contextmanager
def _listening(listen: Listen | None) -> Iterator[None]:
    from graft.training.loop import on_epoch

    token = on_epoch.set(listen)
    try:
        yield
    finally:
        on_epoch.reset(token)


def _listener(report: Report, done: int) -> Listen:
    epochs = done

    def listen(row: dict[str, Any]) -> None:
        nonlocal epochs
        if "diverged" in row:
            fix = "a lower learning rate or a larger batch keeps the loss finite"
            raise GraftError(f"training diverged in epoch {row['epoch']} of {row['phase']}", fix)
        if "val_accuracy" in row:
            epochs += 1
            report(epochs, row["val_accuracy"])

    return listen


def measure(candidate: Path, images: Path) -> Score:
    """A candidate's score on the labelled validation images, the target domain's where it has any.

    Raises:
        GraftError: the candidate has no model, or no validation image has a label.
    """
    import numpy as np

    from graft.backbones.classifier import load_classifier
    from graft.images.loading import load_images
    from graft.images.table import read_table
    from graft.training.device import best_device
    from graft.training.supervised import validation_index

    table = read_table(images)
    model = load_classifier(candidate).to(best_device())
    loaded = load_images(table, validation_index(table), model.config.preprocessing)
    labels = loaded.labels.numpy()
    probabilities = model.predict_pixels(loaded.pixels)
    likelihood = probabilities[np.arange(len(labels)), labels]
    accuracy = float((probabilities.argmax(1) == labels).mean())
    return Score(accuracy, float(-np.log(np.clip(likelihood, 1e-12, None)).mean()))


@contextlib.contextmanager
def _printing_to(folder: Path) -> Iterator[None]:
    """Steps print to the folder's log.txt and leave their records in its steps/."""
    with (
        exported({"GRAFT_RUN": str(folder)}),
        (folder / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


@contextlib.contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, which the system lets go of when this process dies.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextlib.contextmanager
def in_progress(folder: Path) -> Iterator[None]:
    """Mark a trial's folder as in use for as long as this process lives; `abandoned` asks."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked_from_its_birth(folder):
        try:
            yield
        finally:  # the reuse store has what is worth keeping
            shutil.rmtree(folder / "artifacts", ignore_errors=True)


def abandoned(folder: Path) -> bool:
    """Whether the process that was busy with a trial on this machine is gone."""
    lock = folder / "lock"
    if not lock.exists():
        return False
    try:
        with held(lock):
            return True
    except BlockingIOError:
        return False


@contextlib.contextmanager
def _locked_from_its_birth(folder: Path) -> Iterator[TextIO]:
    """The lock file gets its name once it is locked, so nobody finds it free in between."""
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        os.replace(name, folder / "lock")
        yield stream


def _digest(sections: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:32]
