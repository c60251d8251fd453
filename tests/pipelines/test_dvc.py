"""The chain through DVC, in a Git repository as a user has it."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from tests.pipelines.conftest import ROOT, Checkout, make_checkout
from tests.pipelines.test_local import predictions

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


def run(place: Checkout, *command: str) -> str:
    done = subprocess.run(
        command, cwd=place.folder, env=place.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def reproduced(two_domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A repository after `dvc repro`, committed."""
    place = make_checkout(tmp_path_factory.mktemp("dvc"))
    shutil.copy(ROOT / "dvc.yaml", place.folder)
    shutil.copy(ROOT / ".gitignore", place.folder)
    shutil.copytree(two_domains, place.folder / "data")
    run(place, "git", "init", "-q")
    run(place, "git", "config", "user.email", "a@example.org")
    run(place, "git", "config", "user.name", "A")
    run(place, "dvc", "init", "-q")
    run(place, "dvc", "add", "-q", "data")
    run(place, "git", "add", "-A")
    run(place, "git", "commit", "-qm", "data")
    run(place, "dvc", "repro")
    run(place, "git", "add", "-A")
    run(place, "git", "commit", "-qm", "first model")
    return place


def test_the_same_seed_gives_the_same_predictions_as_kubeflow(
    reproduced: Checkout, trained: Checkout
) -> None:
    mine = pd.read_parquet(reproduced.folder / "runs/dvc/predictions.parquet")
    theirs = predictions(trained.folder / "first")
    assert_frame_equal(mine.sort_values(["candidate", "path"]).reset_index(drop=True), theirs)


def test_repeated_at_once_it_runs_nothing(reproduced: Checkout) -> None:
    assert "Running stage" not in (text := run(reproduced, "dvc", "repro"))
    assert "up to date" in text


def test_metrics_params_and_plots_can_be_compared(reproduced: Checkout) -> None:
    metrics = json.loads(run(reproduced, "dvc", "metrics", "show", "--json"))
    scores = metrics[""]["data"]["runs/dvc/scores.json"]["data"]
    assert 0 <= scores["candidates"]["adapted"]["accuracy"] <= 1
    run(reproduced, "dvc", "plots", "show", "-o", "plots")
    page = (reproduced.folder / "plots" / "index.html").read_text()
    assert "Domain adaptation" in page
    assert "val_accuracy" in page
    shutil.rmtree(reproduced.folder / "plots")


def test_an_experiment_reruns_what_its_parameter_touches(reproduced: Checkout) -> None:
    text = run(reproduced, "dvc", "exp", "run", "-S", "domain_adaptation.target_epochs=0")
    assert "Running stage 'domain_adaptation'" in text
    assert "Running stage 'fine_tuning'" not in text
    changed = run(reproduced, "dvc", "params", "diff")
    assert "domain_adaptation.target_epochs" in changed
    assert "scores.json" in run(reproduced, "dvc", "metrics", "diff", "--all")
    run(reproduced, "dvc", "plots", "diff", "-o", "plots")
    assert (reproduced.folder / "plots" / "index.html").is_file()
