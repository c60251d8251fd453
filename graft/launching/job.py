"""What all processes do, and what they tell the step that waits for them: files in one folder.

`job.json` comes from the step. The first process adds a line to `epochs.jsonl` after each epoch; one that
fails leaves its words in `failure-<rank>.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.files import read_json, write_json
from graft.training.loop import on_epoch

AGAIN = "start it again when that is mended; it goes on from its last checkpoint"


@dataclass(frozen=True)
class Job:
    """A call of a step's function, `graft.steps.<step>.run`.

    Attributes:
        settings: Its parameters, as JSON holds them.
        inputs, outputs: Paths by argument.
        work: Folder for checkpoints; survives a kill. What the processes tell is below it.
    """

    step: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    work: str

    @property
    def folder(self) -> Path:
        """Where the step and its processes leave messages."""
        return Path(self.work) / "launch"


def write_job(job: Job) -> Path:
    """Write a job for its processes to read."""
    write_json(job.folder / "job.json", asdict(job))
    return job.folder / "job.json"


def read_job(file: Path) -> Job:
    """What `write_job` wrote."""
    return Job(**read_json(file))


def tell_epoch(folder: Path, row: Mapping[str, Any]) -> None:
    """Called by the first process with an epoch's row."""
    with (folder / "epochs.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def epoch_listener(folder: Path) -> Callable[[], None]:
    """A function that hands epochs told since its last call to `on_epoch`, as if they were trained here."""
    done = 0

    def listen() -> None:
        nonlocal done
        file, callback = folder / "epochs.jsonl", on_epoch.get()
        if callback is None or not file.is_file():
            return
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last one may not be whole
        fresh, done = lines[done:], len(lines)
        for line in fresh:
            callback(json.loads(line))

    return listen


def tell_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Called by a process that cannot go on."""
    if isinstance(error, GraftError):
        words = {"known": True, "problem": error.problem, "fix": error.fix}
    else:
        fix = f"its traceback is in the step's log; {AGAIN}"
        words = {"known": False, "problem": f"{type(error).__name__}: {error}", "fix": fix}
    write_json(folder / f"failure-{rank}.json", {"rank": rank, **words})


def forget_messages(folder: Path) -> None:
    """Delete what processes told in an earlier attempt."""
    for file in (*folder.glob("failure-*.json"), *folder.glob("epochs.jsonl"), *folder.glob("rank-*.log")):
        file.unlink(missing_ok=True)


def failure_of(folder: Path, died: str | None, otherwise: str) -> GraftError:
    """Why processes that trained together failed.

    When one is gone the others fail too, for want of it. So a fault of the user's comes first, then a death
    without words, then what else was raised.

    Args:
        folder: With the processes' words.
        died: Which process was killed and how, as far as whoever watched it knows.
        otherwise: What to say if nobody knows anything.
    """
    told = [read_json(file) for file in sorted(folder.glob("failure-*.json"))]
    for known in (True, False):
        if died and not known:
            return GraftError(died, f"too little memory is the commonest cause; {AGAIN}")
        for each in told:
            if each["known"] == known:
                return GraftError(f"process {each['rank']}: {each['problem']}", each["fix"])
    return GraftError(otherwise, f"read the step's log; {AGAIN}")
