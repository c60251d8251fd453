import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from graft.errors import GraftError
from graft.steps.running import KEPT_PER_STEP, content_digest, run_step


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAFT_RUN", str(tmp_path / "run"))
    return tmp_path


def copy_upper(*, times: int, source: Path, result: Path, work: Path) -> None:
    assert work.is_dir()
    result.mkdir(parents=True)
    (result / "text").write_text(source.read_text().upper() * times)
    with (source.parent / "calls").open("a") as calls:
        calls.write("x")


def upper(home: Path, result: str = "result", times: int = 1, **more: Any) -> str:
    run_step(
        "upper",
        lambda: copy_upper,
        settings={"times": times},
        inputs={"source": str(home / "source")},
        outputs={"result": str(home / result)},
        **more,
    )
    return (home / result / "text").read_text()


def calls(home: Path) -> int:
    return len((home / "calls").read_text())


def record(home: Path) -> dict[str, Any]:
    return json.loads((home / "run" / "steps" / "upper.json").read_text())


def test_the_same_call_is_made_once(home: Path) -> None:
    (home / "source").write_text("a")
    assert upper(home) == "A"
    assert not record(home)["reused"]
    assert upper(home, "again") == "A"
    assert calls(home) == 1
    assert record(home)["reused"]
    assert record(home)["status"] == "succeeded"


@pytest.mark.parametrize("change", ["input", "setting", "not reusable", "code"])
def test_whatever_changes_makes_the_step_run_again(
    home: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "source").write_text("a")
    upper(home)
    if change == "input":
        (home / "source").write_text("b")
    if change == "code":
        monkeypatch.setattr("graft.steps.running._code_digest", lambda: "another")
    upper(home, times=2 if change == "setting" else 1, reusable=change != "not reusable")
    assert calls(home) == 2


@pytest.mark.parametrize(
    ("section", "reused"),
    [
        ({}, True),
        ({"weights": "pretrain"}, True),
        ({"weights": "random"}, True),
        ({"weights": "mine.pth"}, False),
        ({"weights": "models:/insects@champion"}, False),
        ({"weights": "mine.pth", "sha256": "d7fcb937"}, True),
        ({"distill": {"teacher": "models:/insects@champion"}}, False),
        ({"pace": {"networks": [{"name": "resnet18", "weights": "DEFAULT"}]}}, False),
        ({"init": "champion"}, True),  # the step's settings then name its version
    ],
)
def test_weights_that_may_change_behind_their_name_are_never_taken_for_the_same(
    home: Path, section: dict[str, Any], reused: bool
) -> None:
    """An alias that moved, or a file written anew, must not give what an earlier run made."""

    def write(*, section: dict[str, Any], result: Path) -> None:
        result.write_text(str(section))

    for _ in range(2):
        run_step(
            "upper",
            lambda: write,
            settings={"section": section},
            inputs={},
            outputs={"result": str(home / "result")},
        )
    assert record(home)["reused"] == reused


def test_a_deleted_output_of_an_earlier_run_does_not_harm_reuse(home: Path) -> None:
    (home / "source").write_text("a")
    upper(home)
    (home / "result" / "text").unlink()
    assert upper(home, "again") == "A"


def test_only_the_newest_results_are_kept(home: Path) -> None:
    (home / "source").write_text("a")
    for times in range(1, KEPT_PER_STEP + 4):
        upper(home, times=times)
    kept = list((home / "home" / "cache" / "upper").iterdir())
    assert len(kept) == KEPT_PER_STEP
    upper(home, times=KEPT_PER_STEP + 3)
    assert calls(home) == KEPT_PER_STEP + 3


def test_nothing_is_kept_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFT_HOME")
    (home / "source").write_text("a")
    upper(home)
    upper(home)
    assert calls(home) == 2


def test_a_fault_is_recorded_with_its_fix_and_nothing_is_kept(home: Path) -> None:
    def refuse(*, result: Path) -> None:
        result.mkdir()
        raise GraftError("the image cat.jpg is broken", "remove it")

    with pytest.raises(GraftError):
        run_step("upper", lambda: refuse, settings={}, inputs={}, outputs={"result": str(home / "result")})
    assert record(home)["problem"] == "the image cat.jpg is broken"
    assert record(home)["fix"] == "remove it"
    assert not list((home / "home" / "cache").glob("*/*"))


def test_digests_see_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = content_digest(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    second = content_digest(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({first, second, content_digest(tmp_path / "a")}) == 3


KILLED = """
import sys, time
from pathlib import Path
from graft.steps.running import run_step
def slow(*, result, work):
    count = work / "count"
    count.write_text(str(int(count.read_text()) + 1 if count.exists() else 1))
    print("started", flush=True)
    if int(count.read_text()) == 1:
        time.sleep(60)
    result.write_text(count.read_text())
run_step("slow", lambda: slow, settings={}, inputs={}, outputs={"result": sys.argv[1]})
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_step_finds_its_work_again(home: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", KILLED, str(home / "result")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(how)
    assert process.wait(timeout=30) != 0
    assert not (home / "result").exists()
    subprocess.run(command, check=True, env=os.environ, stdout=subprocess.DEVNULL)
    assert (home / "result").read_text() == "2"
    assert not list((home / "home" / "work" / "slow").iterdir())
