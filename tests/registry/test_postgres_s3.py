"""A tracking server as teams run it: PostgreSQL, S3 behind a proxy, passwords, two workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from graft.errors import GraftError
from graft.params import Registry
from graft.registry import ledger, registration
from graft.registry.copying import copy
from graft.registry.promotion import Superseded, champion_of, history, move, promote, rollback
from graft.registry.tracing import trace_data, trace_model
from graft.registry.verifying import verify
from graft.registry.versions import list_versions

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
Candidate = Callable[..., Path]
USER, PASSWORD = "ada", "a long enough password"
LINEAGE = {"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def postgres_program(name: str) -> str:
    found = [str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    program = max(found, default=shutil.which(name))
    if program is None:
        pytest.skip(f"needs PostgreSQL's {name} (Debian's package postgresql), which is not installed")
    return program


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own, with the databases mlflow and auth; all of its address but their names."""
    initdb, control, psql = (postgres_program(name) for name in ("initdb", "pg_ctl", "psql"))
    # It refuses to run as root, and its user must be able to reach its folder.
    root = os.getuid() == 0
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    folder, port = Path(tempfile.mkdtemp(prefix="graft-postgres-", dir="/tmp")), free_port()
    if root:
        shutil.chown(folder, "postgres")

    def call(*command: str) -> None:
        done = subprocess.run(
            [*as_user, *command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"

    data = str(folder / "data")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        call(initdb, "-D", data, "-U", "graft", "--auth", "trust", "--no-sync")
        call(control, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            for name in ("mlflow", "auth"):
                call(
                    psql,
                    "-h",
                    str(folder),
                    "-p",
                    str(port),
                    "-U",
                    "graft",
                    "postgres",
                    "-c",
                    f"CREATE DATABASE {name}",
                )
            # SQLAlchemy from 2.1 on takes another driver by default.
            yield f"postgresql+psycopg2://graft@127.0.0.1:{port}"
        finally:
            call(control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """An S3-compatible store over HTTP, with the bucket `models`; the environment that reaches it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="models")
    yield {**keys, "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}"}
    server.stop()


@dataclass
class Server:
    """`mlflow server`; can be killed and started again."""

    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), *self.arguments],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + 200
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text()[-3000:])

    def kill(self) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(
    postgres: str, store: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    pytest.importorskip("flask_wtf", reason="needs Flask-WTF, without which MLflow asks for no passwords")
    folder = tmp_path_factory.mktemp("server")
    settings = {
        "default_permission": "READ",
        "database_uri": f"{postgres}/auth",
        "admin_username": USER,
        "admin_password": PASSWORD,
        "auth_cache_ttl_seconds": "600",  # else every request hashes the password, slowly
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    lines = ["[mlflow]", *(f"{key} = {value}" for key, value in settings.items())]
    (folder / "auth.ini").write_text("\n".join(lines))
    environment = {
        **store,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # it calls uvicorn
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    arguments = ["--app-name", "basic-auth", "--host", "127.0.0.1", "--workers", "2"]
    arguments += ["--backend-store-uri", f"{postgres}/mlflow", "--artifacts-destination", "s3://models/store"]
    running = Server(arguments, environment, folder)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture
def remote(server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Registry:
    """The server, for a user who has only its password; every test has a model of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "GRAFT_RUN"):
        monkeypatch.delenv(name, raising=False)
    return Registry(tracking_uri=server.uri, model_name=request.node.name)


def enter(winner: Path, params: Registry, against: str | None, promote: bool = True) -> dict[str, Any]:
    champion = {"version": against, "problem": None} if against else None
    decision = {"winner": "probe", "promote": promote, "reasons": [], "champion": champion}
    return registration.register(winner, decision, params, lineage=LINEAGE, metrics={"accuracy.probe": 0.9})


def champion(params: Registry) -> str | None:
    return champion_of(MlflowClient(params.tracking_uri).get_registered_model(params.model_name))


def test_every_command(remote: Registry, candidate: Candidate, registry: Registry) -> None:
    name = remote.model_name
    assert enter(candidate(seed=0), remote, None)["champion"]
    assert enter(candidate(seed=0), remote, None)["reused"]
    enter(candidate(seed=1), remote, "1", promote=False)
    assert promote(remote, "2", "by ear")["from"] == "1"
    assert rollback(remote, "out of tune")["to"] == "1"
    assert [(row["version"], row["aliases"]) for row in list_versions(remote)] == [
        ("2", ["challenger"]),
        ("1", ["champion"]),
    ]
    entries = history(remote)["entries"]
    assert [(e["action"], e["who"], e["outcome"]) for e in entries] == [
        ("register", USER, "done"),
        ("promote", USER, "done"),
        ("rollback", USER, "done"),
    ]
    facts = trace_model(remote, f"{name}@champion")
    assert (facts["version"], facts["decision"]["winner"], facts["missing"]) == ("1", "probe", [])
    assert [row["version"] for row in trace_data(remote, "a" * 32)] == ["2", "1"]
    assert verify(remote, f"{name}@champion")["passed"]
    local = registry.model_copy(update={"model_name": name})
    assert copy(remote, local, f"{name}@champion")["moved"]
    back = copy(local, remote, f"{name}@champion")
    assert (back["version"], champion(remote)) == ("3", "3")
    assert verify(remote, f"{name}@champion")["passed"]


def test_without_the_password(remote: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(GraftError, match="401") as caught:
        history(remote)
    assert "MLFLOW_TRACKING_PASSWORD" in caught.value.fix


def test_two_race_on_two_workers_and_one_wins(remote: Registry, candidate: Candidate) -> None:
    for seed in range(3):
        enter(candidate(seed=seed), remote, None, promote=seed == 0)
    client, name = MlflowClient(remote.tracking_uri), remote.model_name
    for _ in range(8):
        client.set_registered_model_alias(name, "champion", "1")
        gate, outcomes = threading.Barrier(2), []

        def attempt(number: str, gate: threading.Barrier, outcomes: list[str]) -> None:
            gate.wait()
            entry = ledger.draft("promote", "champion", number, why="race", evidence={})
            try:
                move(MlflowClient(remote.tracking_uri), name, entry, "1")
                outcomes.append(number)
            except Superseded:
                outcomes.append("superseded")

        threads = [threading.Thread(target=attempt, args=(number, gate, outcomes)) for number in ("2", "3")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [champion(remote), "superseded"]
    entries = history(remote)["entries"]
    done = [entry["number"] for entry in entries if entry["outcome"] == "done"]
    assert len(done) == len(set(done))
    assert all(entry["outcome"] for entry in entries)


PIPELINE = """
import json, sys
from pathlib import Path
from graft.params import Registry
from graft.registry.registration import register

winner, model, uri, lineage = sys.argv[1:]
decision = {"winner": "probe", "promote": True, "reasons": [], "champion": {"version": "1", "problem": None}}
params = Registry(model_name=model, tracking_uri=uri)
print(json.dumps(register(Path(winner), decision, params, lineage=json.loads(lineage), metrics={})))
"""


def test_two_pipelines_decided_against_the_same_champion(
    remote: Registry, candidate: Candidate, tmp_path: Path
) -> None:
    enter(candidate(seed=0), remote, None)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                PIPELINE,
                str(candidate(seed=seed)),
                remote.model_name,
                str(remote.tracking_uri),
                json.dumps({**LINEAGE, "pipeline_run": f"run{seed}"}),
            ],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    results = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        results.append(json.loads(output.splitlines()[-1]))
    winner, loser = sorted(results, key=lambda result: result["superseded"] is not None)
    assert winner["superseded"] is None
    assert f"version {winner['version']} is champion now" in loser["superseded"]["reason"]
    assert champion(remote) == winner["version"]
    seed = 1 + results.index(loser)
    again = enter(candidate(seed=seed), remote, winner["version"])  # judged again, against the new champion
    assert (again["version"], again["reused"], again["champion"]) == (loser["version"], True, True)


@pytest.mark.parametrize("where", ["upload", "version", "champion"])
def test_a_server_that_dies_while_a_model_is_registered(
    remote: Registry, server: Server, candidate: Candidate, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    enter(candidate(seed=0), remote, None)
    client = MlflowClient(remote.tracking_uri)
    places: dict[str, tuple[Any, str]] = {
        "upload": (mlflow.pyfunc, "log_model"),
        "version": (mlflow, "register_model"),
        "champion": (MlflowClient, "set_registered_model_alias"),
    }
    whole = getattr(*places[where])

    def dying(*arguments: Any, **words: Any) -> Any:
        if where != "champion" or "champion" in arguments:
            server.kill()
        return whole(*arguments, **words)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(*places[where], dying)
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            with pytest.raises(GraftError, match="register the model") as caught:
                enter(candidate(seed=1), remote, "1")
    finally:
        server.start()
    assert "run the step again" in caught.value.fix
    assert champion(remote) == "1"
    expected = ["2", "1"] if where == "champion" else ["1"]
    assert [row["version"] for row in list_versions(remote)] == expected
    assert len(history(remote)["notes"]) == (1 if where == "champion" else 0)
    result = enter(candidate(seed=1), remote, "1")
    assert (result["version"], result["champion"]) == ("2", True)
    assert result["reused"] == (where == "champion")
    assert str(client.get_registered_model(remote.model_name).aliases["challenger"]) == "2"
    assert history(remote)["notes"] == []
