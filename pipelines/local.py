"""The DAG on this machine, through Kubeflow's own local runner."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from graft.errors import GraftError
from graft.files import read_json, remove
from graft.params import Params
from graft.progress import MARK
from graft.storage.revisions import settle
from pipelines.environment import exported
from pipelines.summary import summarise


def retrain(
    params: Params, folder: str, runs: Path = Path("runs"), *, image: str | None = None
) -> dict[str, Any]:
    """Run the whole chain in subprocesses or containers of this machine.

    Everything a run makes is below `runs/<time>/`; `runs/latest` points to the last run, whether it
    succeeded or not. Steps whose inputs, parameters and code did not change take their outputs from
    an earlier run.

    Args:
        params: The whole of params.yaml.
        folder: The data folder: a path or an address, see `graft.storage.revisions.settle`.
        runs: Where runs are kept.
        image: Of the steps' containers; None runs them in subprocesses.

    Returns:
        The summary, as in runs/latest/summary.json.

    Raises:
        GraftError: what a step found wrong, after the summary has been written.
    """
    folder = settle(folder)
    run = _new_run(runs)
    failure: BaseException | None = None
    with exported(_environment(run)), _logged(run / "log.txt"):
        try:
            _run_pipeline(run, params, folder, image)
        except (Exception, KeyboardInterrupt) as error:
            failure = error
    _gather(run)
    summary = summarise(run, failure)
    if isinstance(failure, KeyboardInterrupt):
        raise failure
    if failure is not None:
        raise _named(run, failure) from failure
    return summary


def _run_pipeline(run: Path, params: Params, folder: str, image: str | None) -> None:
    from kfp import local

    from graft.steps.lineage import lineage
    from pipelines.containers import hold_to_outputs, in_containers

    place = in_containers(params, folder, run, image) if image else _in_subprocesses()
    with place as (runner, pipeline):
        local.init(runner=runner, pipeline_root=str(run / "artifacts"), raise_on_error=True)
        pipeline(folder=folder, lineage=lineage(params), **params.sections())
    if image:
        hold_to_outputs(run)


@contextlib.contextmanager
def _in_subprocesses() -> Iterator[tuple[Any, Any]]:
    from kfp import local

    from pipelines.retraining import retraining

    yield local.SubprocessRunner(use_venv=False), retraining


def _new_run(runs: Path) -> Path:
    name = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
    run = (runs / name).absolute()
    run.mkdir(parents=True)
    latest = runs / "latest"
    remove(latest)
    latest.symlink_to(name, target_is_directory=True)
    return run


def _environment(run: Path) -> dict[str, str]:
    """What the steps' subprocesses inherit."""
    home = os.environ.get("GRAFT_HOME", str(run.parent.parent / ".graft"))
    return {"GRAFT_RUN": str(run), "GRAFT_HOME": home, "PYTHONUNBUFFERED": "1"}


class _Log(io.TextIOBase):
    """Writes everything to a log, and graft's own lines to the terminal too."""

    def __init__(self, log: TextIO, terminal: TextIO) -> None:
        self.log, self.terminal, self.line = log, terminal, ""

    def write(self, text: str) -> int:
        self.log.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.strip().startswith(MARK):
                self.terminal.write(line.strip() + "\n")
        return len(text)

    def flush(self) -> None:
        self.log.flush()
        self.terminal.flush()


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as stream:
        log = _Log(stream, sys.stdout)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield


def _gather(run: Path) -> None:
    """Give what people look at a short name in the run's folder."""
    wanted = {
        "report": "report.html",
        "docs": "data",
        "scores": "scores.json",
        "decision": "decision.json",
        "registered": "registered.json",
        "winner": "winner",
    }
    for path in sorted((run / "artifacts").glob("*/*/*")):
        if not (name := wanted.get(path.name)):
            continue
        if path.is_dir():
            (run / name).symlink_to(os.path.relpath(path, run), target_is_directory=True)
        else:
            shutil.copy(path, run / name)  # a browser judges a link by the name it points to
    sheet = next((run / "artifacts").glob("*/*/views/sheet.png"), None)
    if sheet:
        shutil.copy(sheet, run / "augmentation.png")


def _named(run: Path, failure: BaseException) -> Exception:
    """The failed step's own words, which kfp's error does not carry."""
    for path in (run / "steps").glob("*.json"):
        record = read_json(path)
        if record["status"] == "failed":
            return GraftError(f"{record['step']}: {record['problem']}", record["fix"])
    if isinstance(failure, GraftError):
        return failure
    return GraftError(f"the pipeline failed: {failure}", f"read {run / 'log.txt'}")
