"""infra/backup on a real PostgreSQL with MLflow's tables, and an S3 server over HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from tests.infra.conftest import SCRIPTS, Surroundings

BACKUPS = {"BACKUPS": "s3://backups/postgres", "BACKUPS_KEEP_DAYS": "14", "BACKUPS_KEEP_AT_LEAST": "3"}


def load_store() -> ModuleType:
    spec = importlib.util.spec_from_file_location("graft_backup_store", SCRIPTS / "store.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


store_script = load_store()


@dataclass(frozen=True)
class Said:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def environment(pod: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    """store.py runs in this process: importing boto3 anew costs a second each time."""
    for name, value in pod.environment.items():
        if name != "PATH":
            monkeypatch.setenv(name, value)


def store_py(*arguments: str | Path) -> Said:
    output, code, said = io.StringIO(), 0, ""
    with contextlib.redirect_stdout(output):
        try:
            store_script.main([str(each) for each in arguments])
        except SystemExit as stop:
            code, said = 1, str(stop.code)
    return Said(code, output.getvalue(), said)


@pytest.fixture(scope="module")
def pod(postgres: dict[str, str], store: dict[str, str]) -> Surroundings:
    """The backup's environment; the database holds an experiment, a run and a registered version."""
    client = MlflowClient(f"postgresql+psycopg2://mlflow@127.0.0.1:{postgres['PGPORT']}/mlflow")
    experiment = client.create_experiment("digits", artifact_location="s3://artifacts/digits")
    run = client.create_run(experiment)
    for step in range(50):
        client.log_metric(run.info.run_id, "accuracy", step / 50, step=step)
    client.log_param(run.info.run_id, "method", "probe – ünïcode")
    client.create_registered_model("digits")
    client.create_model_version("digits", "s3://artifacts/digits/model", run.info.run_id)
    client.set_registered_model_alias("digits", "champion", "1")
    surroundings = Surroundings({**postgres, **store, **BACKUPS})
    for said in ("made the bucket backups\n", ""):  # once as the pods do it
        make = [sys.executable, str(SCRIPTS / "store.py"), "bucket", BACKUPS["BACKUPS"]]
        assert subprocess.check_output(make, env=surroundings.environment, text=True) == said
    return surroundings


@pytest.fixture
def s3(pod: Surroundings) -> Iterator[Any]:
    """The store, emptied afterwards."""
    environment = pod.environment
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    yield client
    for key in keys(client):
        client.delete_object(Bucket="backups", Key=key)


def keys(s3: Any) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket="backups").get("Contents", [])]


def content(pod: Surroundings, database: str = "mlflow") -> dict[str, list[str]]:
    """Every row of every table, as text."""
    place = {"host": "127.0.0.1", "port": pod.environment["PGPORT"], "user": "mlflow", "dbname": database}
    connection = psycopg2.connect(**place)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found: dict[str, list[str]] = {table: [] for (table,) in cursor.fetchall()}
        assert {"runs", "metrics", "registered_model_aliases"} <= set(found)
        for table, rows in found.items():
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            rows += sorted(text for (text,) in cursor.fetchall())
    finally:
        connection.close()
    return found


def backed_up(pod: Surroundings, folder: Path) -> str:
    """The name of a new backup."""
    dumped = pod.sh("dump.sh", folder)
    assert dumped.returncode == 0, dumped.stderr
    sent = store_py("upload", folder)
    assert sent.returncode == 0, sent.stderr
    return sent.stdout.partition(":")[0]


def restored(pod: Surroundings, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = store_py("download", name, folder)
    assert done.returncode == 0, done.stderr
    return pod.sh("restore.sh", folder)


def test_backup_drop_restore(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    before = content(pod)
    assert len(before["metrics"]) == 50
    name = backed_up(pod, tmp_path)
    assert keys(s3) == [f"postgres/{name}/database.dump", f"postgres/{name}/manifest.json"]
    pod.query('DROP DATABASE "mlflow" WITH (FORCE)', "postgres")
    done = restored(pod, "latest", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert content(pod) == before


def test_what_was_there_is_kept_beside(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    before = content(pod)
    name = backed_up(pod, tmp_path)
    pod.query("UPDATE params SET value = 'spoiled'")
    spoiled = content(pod)
    done = restored(pod, name, tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert content(pod) == before != spoiled
    (aside,) = pod.query(
        "SELECT datname FROM pg_database WHERE datname LIKE 'mlflow_before_%'", "postgres"
    ).split()
    assert content(pod, aside) == spoiled
    pod.query(f'DROP DATABASE "{aside}"', "postgres")


def test_nothing_moves_while_mlflow_is_connected(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    before = content(pod)
    backed_up(pod, tmp_path)
    session = psycopg2.connect(
        host="127.0.0.1", port=pod.environment["PGPORT"], user="mlflow", dbname="mlflow"
    )
    try:
        done = restored(pod, "latest", tmp_path / "back")
    finally:
        session.close()
    assert done.returncode == 1
    assert "connections to mlflow; nothing was changed" in done.stderr
    assert "--replicas=0" in done.stderr
    assert content(pod) == before


def cutting(folder: Path, pod: Surroundings, share: float) -> dict[str, str]:
    """An environment whose pg_dump loses its end, and says nothing of it."""
    folder.mkdir()
    program = folder / "pg_dump"
    program.write_text(f"""#!/bin/sh
for each; do case $each in --file=*) file=${{each#--file=}};; esac; done
PATH="{pod.environment["PATH"]}" pg_dump "$@"
truncate --size="$(( $(stat --format=%s "$file") * {int(share * 100)} / 100 ))" "$file"
""")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{pod.environment['PATH']}"}


@pytest.mark.parametrize("share", [0.1, 0.6, 0.98])
def test_a_cut_off_dump_is_refused(pod: Surroundings, s3: Any, tmp_path: Path, share: float) -> None:
    """Of 0.6 and more the table of contents is whole: pg_restore --list alone finds nothing wrong."""
    good = backed_up(pod, tmp_path)
    done = pod.sh("dump.sh", tmp_path, **cutting(tmp_path / "bin", pod, share))
    assert done.returncode != 0
    assert "holds no table" in done.stderr or "cut off" in done.stderr
    assert not (tmp_path / "database.dump").exists()
    sent = store_py("upload", tmp_path)
    assert sent.returncode == 1
    assert "nothing was sent" in sent.stderr
    assert store_py("list").stdout.split() == [good]


def test_a_dump_that_changed_after_the_check_is_not_sent(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    assert pod.sh("dump.sh", tmp_path).returncode == 0
    with (tmp_path / "database.dump").open("r+b") as stream:
        stream.truncate(1000)
    sent = store_py("upload", tmp_path)
    assert (sent.returncode, keys(s3)) == (1, [])
    assert "not what was dumped" in sent.stderr


def test_a_backup_damaged_in_the_store_is_not_restored(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    before = content(pod)
    name = backed_up(pod, tmp_path)
    key = f"postgres/{name}/database.dump"
    body = bytearray(s3.get_object(Bucket="backups", Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.put_object(Bucket="backups", Key=key, Body=bytes(body))
    done = store_py("download", "latest", tmp_path / "back")
    assert done.returncode == 1
    assert f"{name} is damaged in the store" in done.stderr
    assert pod.sh("restore.sh", tmp_path / "back").returncode != 0
    assert content(pod) == before


def test_an_interrupted_upload_is_no_backup(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    name = backed_up(pod, tmp_path)
    s3.put_object(Bucket="backups", Key="postgres/2999-01-01T00-00-00Z/database.dump", Body=b"half")
    assert store_py("list").stdout.split() == [name]
    done = store_py("download", "2999-01-01T00-00-00Z", tmp_path)
    assert done.returncode == 1
    assert f"there are: {name}" in done.stderr


def test_an_upload_deletes_what_is_too_old(pod: Surroundings, s3: Any, tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    old = [(now - timedelta(days=days)).strftime(store_script.FORM) for days in (40, 30, 20, 10)]
    for name in old:
        for part, body in (("database.dump", b"x"), ("manifest.json", json.dumps({}).encode())):
            s3.put_object(Bucket="backups", Key=f"postgres/{name}/{part}", Body=body)
    new = backed_up(pod, tmp_path)  # keeps three: this one, of 10 and of 20 days
    assert store_py("list").stdout.split() == [old[2], old[3], new]
    assert {key.split("/")[1] for key in keys(s3)} == {old[2], old[3], new}


def test_no_backup_yet(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = store_py("download", "latest", tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: there is no backup in s3://backups/postgres")
    monkeypatch.setenv("BACKUPS", "/tmp")
    assert "BACKUPS must be s3://" in store_py("list").stderr


NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
AGES = st.lists(st.integers(0, 100), unique=True, max_size=30)


@given(AGES, st.integers(0, 60), st.integers(1, 10))
def test_what_expires(ages: list[int], days: int, at_least: int) -> None:
    names = {age: (NOW - timedelta(days=age)).strftime(store_script.FORM) for age in ages}
    gone = set(store_script.expired(names.values(), NOW, timedelta(days=days), at_least))
    kept = set(names.values()) - gone
    assert len(kept) >= min(at_least, len(ages))
    assert all(names[age] in kept for age in ages if age <= days)
    # What goes is older than all that stays, and nothing older than the days stays without need.
    assert max(gone, default="") <= min(kept, default="~")
    assert len([age for age in ages if age > days and names[age] in kept]) <= at_least
