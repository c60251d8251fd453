"""Whether there is a reason to retrain."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner

from graft.errors import GraftError
from graft.files import folder_md5
from graft.params import Registry
from pipelines import conditions
from pipelines.commands_cluster import submit
from pipelines.conditions import why_not_data, why_not_drifted

MD5 = "0123456789abcdef0123456789abcdef"
DATA = f"dvc+s3://bucket/digits?md5={MD5}.dir"
NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """With one version, which has seen DATA."""
    from mlflow import MlflowClient

    from graft.registry.tracking import reach, using

    params = Registry(
        tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db", model_name="digits"
    )
    client: MlflowClient = reach(str(params.tracking_uri))
    with using(str(params.tracking_uri)):
        client.create_registered_model("digits")
        client.create_model_version("digits", "s3://nowhere", tags={"data_md5": MD5})
    return params


def test_data_that_a_version_has_seen_is_no_reason(registry: Registry) -> None:
    assert why_not_data(DATA, registry) == f"version 1 of digits has seen this data ({MD5})"
    assert why_not_data(DATA.replace("0123", "3210"), registry) is None
    assert why_not_data(DATA, Registry(tracking_uri=registry.tracking_uri, model_name="letters")) is None


def test_where_nothing_was_ever_registered_there_is_a_reason(tmp_path: Path) -> None:
    assert why_not_data(DATA, Registry(tracking_uri=f"sqlite:///{tmp_path}/none.db")) is None
    assert not (tmp_path / "none.db").exists()


def test_a_folder_is_compared_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    seen = [("4", folder_md5(tmp_path), NOW)]
    monkeypatch.setattr(conditions, "_versions", lambda registry: seen)
    assert "version 4" in str(why_not_data(str(tmp_path), Registry()))
    (tmp_path / "b.png").write_bytes(b"b")
    assert why_not_data(str(tmp_path), Registry()) is None


@pytest.mark.parametrize("data", ["s3://bucket/digits", "/no/such/folder"])
def test_data_of_unknown_content_is_refused_not_guessed(data: str) -> None:
    with pytest.raises(GraftError, match="--data"):
        why_not_data(data, Registry())


@pytest.mark.parametrize(
    ("status", "hours_since", "words"),
    [
        ("fine", 1, "nothing has changed"),
        ("drifted", 1, None),
        ("retrain", 1, None),
        ("retrain", 5, "version 3 .* is newer than .*; monitor again"),
    ],
)
def test_drift_is_a_reason_until_a_model_has_answered_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, hours_since: int, words: str | None
) -> None:
    monitor = tmp_path / "monitor.json"
    monitor.write_text(json.dumps({"status": status}))
    found = (NOW - timedelta(hours=hours_since)).timestamp()
    os.utime(monitor, (found, found))
    monkeypatch.setattr(conditions, "_versions", lambda registry: [("3", None, NOW - timedelta(hours=3))])
    answer = why_not_drifted(monitor, Registry())
    assert (answer is None) if words is None else re.search(words, str(answer))


@pytest.mark.parametrize("content", [None, "[1]", "{}", "{"])
def test_a_missing_or_other_file_is_an_error_and_no_silence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "monitor.json").write_text(content)
    with pytest.raises(GraftError, match=r"is no monitor\.json"):
        why_not_drifted(tmp_path / "monitor.json", Registry())


def test_submit_starts_nothing_and_says_why(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = registry.tracking_uri
    (tmp_path / "params.yaml").write_text(f"registry: {{model_name: digits, tracking_uri: '{uri}'}}")
    arguments = ["--host", "http://127.0.0.1:1", "--data", DATA, "--only-when", "data-changed"]
    result = CliRunner().invoke(submit, arguments)
    assert (result.exit_code, result.stdout) == (
        0,
        f"not started: version 1 of digits has seen this data ({MD5})\n",
    )
