"""A study from beginning to end, on one process or several."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import GraftError
from graft.files import read_json
from graft.progress import say
from pipelines.chain import steps_to, unaffected
from pipelines.environment import exported
from pipelines.tuning.log import Log, start_log, stop_log
from pipelines.tuning.picture import draw_trials
from pipelines.tuning.queue import begun, finished, queue_baseline, queue_lost
from pipelines.tuning.results import overlay, write_overlay
from pipelines.tuning.study import Tuning, open_study, settle
from pipelines.tuning.trial import held, run_steps
from pipelines.tuning.work import work

if TYPE_CHECKING:
    from optuna import Study


def tune(tuning: Tuning, output: Path) -> Study:
    """Run trials until the study has as many as search.yaml wants, those of earlier calls included.

    Args:
        tuning: The study.
        output: Gets the best values, as an overlay of params.yaml.

    Raises:
        GraftError: the storage or MLflow cannot be used, the study was begun with something else, the
            steps before the searched ones fail, all trials fail, or workers die without finishing one.
    """
    with exported(_environment(tuning)):
        study = open_study(tuning)
        settle(study, tuning, _prepare(tuning))
        log = start_log(study, tuning.params.registry)
        try:
            _run_trials(tuning, study, log)
            text = overlay(tuning, study, output)
            write_overlay(output, text)
            pictures = [draw_trials(tuning, study, tuning.folder / "trials.png")]
            log.study(study, tuning, {"tuned.yaml": text}, pictures)
        except KeyboardInterrupt:
            stop_log(log, "KILLED")
            raise
        except Exception:
            stop_log(log, "FAILED")
            raise
    return study


def _run_trials(tuning: Tuning, study: Study, log: Log) -> None:
    wanted = tuning.search.settings.trials
    queue_baseline(study, tuning.search.dimensions, tuning.params)
    queue_lost(study, tuning.folder)
    say(f"study {tuning.name}: {finished(study)} of {wanted} trials are finished; logs: {tuning.folder}")
    while (number := wanted - begun(study)) > 0:
        before = finished(study)
        codes = _round(tuning, log, number)
        queue_lost(study, tuning.folder)
        if finished(study) == before:
            raise GraftError(
                f"the workers stopped before one trial was finished (exit codes {codes})",
                f"read the newest log.txt below {tuning.folder}; fewer --workers need less memory",
            )


def _environment(tuning: Tuning) -> dict[str, str]:
    """Reuse the results that `graft retrain` keeps, and share the processor's cores."""
    home = os.environ.get("GRAFT_HOME", str(tuning.folder.parent.parent.parent / ".graft"))
    cores = max(1, (os.cpu_count() or 1) // tuning.workers)
    threads = (
        {} if tuning.workers == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores)}
    )
    return {"GRAFT_HOME": home, **threads}


def _prepare(tuning: Tuning) -> str:
    """Run the steps that are the same in all trials, for them to reuse; gives the data's MD5.

    What is wrong with these steps is then said once and at once.
    """
    place = tuning.place("before")
    same = unaffected(steps_to(tuning.search.settings.objective), tuning.search.sections)
    with held(place.locks / "before", wait=True):
        say(f"the same in every trial: {', '.join(step.name for step in same)}")
        place.folder.mkdir(parents=True, exist_ok=True)
        run_steps(tuning.params, same, place)
        data_md5 = str(read_json(place.folder / "artifacts" / "images" / "table.json")["data_md5"])
        shutil.rmtree(place.folder / "artifacts")
    return data_md5


def _round(tuning: Tuning, log: Log, number: int) -> list[int | None]:
    """Let the workers take trials until `number` are taken; the exit codes of their processes."""
    if tuning.workers == 1:
        work(tuning, log, threading.Semaphore(number), 0)
        return [0]
    context = multiprocessing.get_context("spawn")
    tickets = context.Semaphore(number)
    workers = [
        context.Process(target=_worker, args=(tuning, log, tickets, each))
        for each in range(min(tuning.workers, number))
    ]
    for process in workers:
        process.start()
    try:
        for process in workers:
            process.join()
    except KeyboardInterrupt:
        _stop(workers)
        raise
    return [process.exitcode for process in workers]


def _stop(workers: Sequence[BaseProcess]) -> None:
    """Ctrl-C in a terminal has reached the workers too; a signal to this process alone has not."""
    for process in workers:
        process.join(5)
        if process.is_alive():
            process.terminate()
            process.join()


def _worker(tuning: Tuning, log: Log, tickets: Semaphore, number: int) -> None:
    try:
        work(tuning, log, tickets, number)
    except KeyboardInterrupt:
        os._exit(130)
    except GraftError as error:
        say(f"worker {number}: {error}")
        os._exit(1)
