"""Two processes on this machine, started by the step itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import GraftError
from graft.launching.job import failure_of, tell_failure
from graft.launching.torchrun import death
from graft.params import FineTuning, parse
from graft.training.loop import on_epoch
from tests.launching.conftest import SECTION, Step, history, weights

TWO = {"kind": "torchrun", "processes": 2}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[1])
    os.environ.pop("OMP_NUM_THREADS")
    if before[0] is not None:
        os.environ["OMP_NUM_THREADS"] = before[0]


@pytest.fixture(scope="module")
def together(step: Step, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made without disturbance."""
    place = tmp_path_factory.mktemp("together")
    step.run(place, TWO)
    return place


@contextmanager
def epochs(rows: list[dict[str, Any]], *, stop: type[BaseException] | None = None) -> Iterator[None]:
    """Collect the epochs that the step hears of; after the first one, raise."""

    def listen(row: dict[str, Any]) -> None:
        rows.append(row)
        if stop:
            raise stop

    token = on_epoch.set(listen)
    try:
        yield
    finally:
        on_epoch.reset(token)


def ranks(place: Path) -> dict[int, int]:
    """The processes at work below a folder: which of them has which process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{place}/work" in (process / "cmdline").read_text():
                environment = (process / "environ").read_text().split("\0")
                found |= {int(v[5:]): int(process.name) for v in environment if v.startswith("RANK=")}
        except OSError:
            continue
    return found


def all_gone(place: Path) -> bool:
    deadline = time.monotonic() + 20
    while ranks(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not ranks(place)


def test_two_processes_make_what_one_makes(together: Path, step: Step, tmp_path: Path) -> None:
    """Sums in another order: equal to a part in a thousand after three epochs, and in every answer."""
    step.run(tmp_path, {})
    alone, shared = weights(tmp_path), weights(together)
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-3, atol=1e-4)
    for one, two in zip(history(tmp_path), history(together), strict=True):
        assert two["val_accuracy"] == one["val_accuracy"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_a_killed_process_ends_the_run_and_the_next_one_goes_on(
    together: Path, step: Step, tmp_path: Path
) -> None:
    def kill_the_second() -> None:
        while not list((tmp_path / "work").glob("*.pt")):
            time.sleep(0.002)
        os.kill(ranks(tmp_path)[1], signal.SIGKILL)

    threading.Thread(target=kill_the_second, daemon=True).start()
    with pytest.raises(GraftError, match=r"process 1 was killed by SIGKILL\n  fix: .*last checkpoint"):
        step.run(tmp_path, TWO)
    assert all_gone(tmp_path)
    assert not (tmp_path / "fine_tuned").exists()
    trained: list[dict[str, Any]] = []
    with epochs(trained):
        step.run(tmp_path, TWO)
    assert 0 < len(trained) < SECTION["epochs"]
    assert history(tmp_path) == history(together)
    mine, undisturbed = weights(tmp_path), weights(together)
    assert all(torch.equal(mine[name], tensor) for name, tensor in undisturbed.items())


def test_an_interrupted_step_takes_its_processes_along(step: Step, tmp_path: Path) -> None:
    """Ctrl-C, and a tuner that gives up a trial after an epoch, leave by the same door."""
    heard: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt), epochs(heard, stop=KeyboardInterrupt):
        step.run(tmp_path, TWO)
    assert [row["epoch"] for row in heard] == [1]
    assert all_gone(tmp_path)


STEP = """
import sys
from pathlib import Path
from tests.launching.conftest import Step
inputs = dict(zip(("images", "views", "network", "probe"), map(Path, sys.argv[2:]), strict=True))
Step(inputs).run(Path(sys.argv[1]), {"kind": "torchrun", "processes": 2}, epochs=4000)
"""


def test_a_step_that_is_killed_leaves_no_processes_behind(step: Step, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STEP, str(tmp_path), *map(str, step.inputs.values())]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "work").glob("*.pt")):
        assert process.poll() is None
        time.sleep(0.1)
    assert len(ranks(tmp_path)) == 2
    process.kill()
    process.wait()
    assert all_gone(tmp_path)


def test_a_fault_comes_in_the_words_of_the_process_that_found_it(
    step: Step, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraftError, match=r"process 0: .*lora is for transformers"):
        step.run(tmp_path, {"kind": "torchrun"}, method="lora")
    assert "1 processes on this machine" in capfd.readouterr().err


REPORT = """
Failures:
[0]:
  time      : 2026-11-21_16:00:00
  host      : here
  rank      : 0 (local_rank: 0)
  exitcode  : {first} (pid: 11) (SIGNAL)
  error_file: <N/A>
Root Cause (first observed failure):
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : {second} (pid: 12) (SIGNAL)
"""


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (1, -9, "process 1 was killed by SIGKILL"),
        (-15, -11, "process 1 was killed by SIGSEGV"),
        (1, 1, None),
        (-15, 1, None),
    ],
)
def test_torchrun_says_who_was_killed(first: int, second: int, found: str | None) -> None:
    assert death(REPORT.format(first=first, second=second).splitlines()) == found


def test_the_cause_goes_before_its_consequences(tmp_path: Path) -> None:
    """The others fail for want of the one that is gone."""
    assert failure_of(tmp_path, None, "exit code 1").problem == "exit code 1"
    tell_failure(tmp_path, 0, RuntimeError("connection closed by peer"))
    assert failure_of(tmp_path, None, "").problem == "process 0: RuntimeError: connection closed by peer"
    assert failure_of(tmp_path, "process 1 was killed", "").problem == "process 1 was killed"
    tell_failure(tmp_path, 1, GraftError("no such image", "give another"))
    assert failure_of(tmp_path, "process 2 was killed", "").problem == "process 1: no such image"
    assert failure_of(tmp_path, "process 2 was killed", "").fix == "give another"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"kind": "process", "processes": 2}, "2 processes need `kind: torchrun` or `kind: trainjob`"),
        ({"kind": "torchrun", "nodes": 2}, "2 nodes need `kind: trainjob`; torchrun stays on one machine"),
        ({"kind": "torchrn"}, "'process', 'torchrun' or 'trainjob'"),
        ({"kind": "torchrun", "processes": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_started_is_refused(section: dict[str, Any], problem: str) -> None:
    with pytest.raises(GraftError, match=problem) as refused:
        parse(FineTuning, {"launch": section}, "params: fine_tuning")
    assert "launch" in refused.value.fix
