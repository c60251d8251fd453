"""The chain through Kubeflow's local runner."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from tests.pipelines.conftest import ROOT, Checkout

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

REUSABLE = {
    "data_validation",
    "backbone",
    "augmentation",
    "feature_extraction",
    "fine_tuning",
    "domain_adaptation",
}


def predictions(run: Path) -> pd.DataFrame:
    """What the run's models answered, without what differs between runs of a champion."""
    frame = pd.read_parquet(next((run / "artifacts").glob("*/*/predictions")))
    chosen = frame[frame["candidate"] != "champion"]
    return chosen.sort_values(["candidate", "path"]).reset_index(drop=True)


def test_one_command_retrains(trained: Checkout) -> None:
    first = trained.folder / "first"
    summary = json.loads((first / "summary.json").read_text())
    assert summary["status"] == "succeeded"
    assert set(summary["candidates"]) == {"probe", "fine_tuned", "adapted", "scratch"}
    assert summary["decision"]["promote"] is True
    assert summary["registered"]["champion"] is True
    assert set(summary["seconds"]) == {*REUSABLE, "evaluation", "model_registration"}
    assert len(summary["data_md5"]) == 32
    assert summary["reused"] == []
    for name in ("report.html", "data/index.html", "augmentation.png", "scores.json", "winner/model.json"):
        assert (first / name).exists(), name


def test_the_terminal_shows_candidates_decision_and_places(trained: Checkout) -> None:
    text = (trained.folder / "first.txt").read_text()
    for expected in ("fine_tuned", "95 % interval", "is promoted to champion", "report.html", "8 steps in"):
        assert expected in text
    assert "Traceback" not in text
    assert "warn" not in text.lower()


def test_a_second_run_reuses_what_did_not_change_and_registers_nothing_new(
    trained: Checkout, two_domains: Path
) -> None:
    before = json.loads((trained.folder / "first" / "summary.json").read_text())
    done = trained.retrain(two_domains)
    assert done.returncode == 0, done.stderr
    after = trained.summary
    assert set(after["reused"]) == REUSABLE
    assert "fine_tuning: reused, since neither inputs, parameters nor code changed" in done.stdout
    assert after["registered"]["version"] == before["registered"]["version"]
    assert after["decision"]["promote"] is False
    assert "champion" in after["registered"]["aliases"]
    assert_frame_equal(predictions(trained.latest), predictions(trained.folder / "first"))


def test_a_changed_section_reruns_its_step_and_what_follows(trained: Checkout, two_domains: Path) -> None:
    done = trained.retrain(two_domains, "--set", "domain_adaptation.target_epochs=0")
    assert done.returncode == 0, done.stderr
    assert set(trained.summary["reused"]) == REUSABLE - {"domain_adaptation"}


def test_stopped_twice_in_the_middle_it_gives_the_same_models(
    checkout: Checkout, trained: Checkout, two_domains: Path
) -> None:
    assert stopped(checkout, two_domains, after="all: epoch 1/", how=signal.SIGINT) == 130
    assert checkout.summary["status"] == "interrupted"
    assert stopped(checkout, two_domains, after="all: epoch 2/", how=signal.SIGKILL) == -signal.SIGKILL
    time.sleep(0.5)
    done = checkout.retrain(two_domains)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "backbone" in checkout.summary["reused"]
    assert "all: epoch 2/" not in done.stdout  # it goes on behind the last checkpoint
    assert "all: epoch 3/" in done.stdout
    assert_frame_equal(predictions(checkout.latest), predictions(trained.folder / "first"))


def stopped(checkout: Checkout, data: Path, *, after: str, how: signal.Signals) -> int:
    """The exit status of a run that is sent a signal, with all its processes, once it has said something."""
    process = subprocess.Popen(
        checkout.command(data),
        cwd=checkout.folder,
        env=checkout.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    assert process.stdout is not None
    for line in process.stdout:
        if after in line:
            break
    os.killpg(process.pid, how)
    return process.wait(timeout=60)


def test_the_quick_recipe_registers_a_probe_and_says_what_it_left_out(
    checkout: Checkout, two_domains: Path
) -> None:
    done = checkout.retrain(two_domains, "--params", str(ROOT / "recipes" / "quick.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkout.summary["registered"]["champion"] is True
    assert set(checkout.summary["candidates"]) == {"probe"}
    assert set(checkout.summary["skipped"]) == {"fine_tuned", "adapted", "scratch"}
    assert "fine_tuned was skipped: fine_tuning.method is none" in done.stdout


def test_bad_data_fails_with_its_fix_and_leaves_its_evidence(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "cat" / "a.png").write_text("not an image")
    done = checkout.retrain(tmp_path / "one")
    assert done.returncode == 1
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert checkout.summary["status"] == "failed"
    assert checkout.summary["problem"]


def test_a_mistyped_parameter_fails_before_anything_runs(checkout: Checkout, two_domains: Path) -> None:
    done = checkout.retrain(two_domains, "--set", "fine_tuning.epoch=3")
    assert done.returncode == 1
    assert "did you mean 'epochs'?" in done.stderr
    assert not checkout.latest.exists()


def test_an_unreachable_mlflow_fails_with_its_fix(trained: Checkout, two_domains: Path) -> None:
    done = trained.retrain(two_domains, "--set", "registry.tracking_uri=http://127.0.0.1:9")
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "fix:" in done.stderr
    assert trained.summary["status"] == "failed"
