"""A PostgreSQL and an S3 store of their own, as the scripts of infra/backup find them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.manifests import INFRA

SCRIPTS = INFRA / "backup"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _postgres_programs() -> Path:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    program = shutil.which("initdb")
    folder = max(found, default=Path(program).resolve().parent if program else None)
    if folder is None:
        pytest.skip("needs PostgreSQL's programs (Debian's package postgresql), which are not installed")
    return folder


@dataclass(frozen=True)
class Surroundings:
    """What a pod of the backup gets as environment, and the scripts run in it."""

    environment: dict[str, str]

    def sh(self, name: str, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """A shell script of infra/backup; `more` is added to the environment."""
        return subprocess.run(
            ["sh", str(SCRIPTS / name), *map(str, arguments)],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def query(self, statement: str, database: str = "mlflow") -> str:
        done = subprocess.run(
            ["psql", "--no-psqlrc", "-qtA", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[str, str]]:
    """A server with an empty database `mlflow`; the environment with which libpq reaches it."""
    programs = _postgres_programs()
    # It refuses to run as root, and its user must be able to reach its folder.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder, port = Path(tempfile.mkdtemp(prefix="graft-postgres-", dir="/tmp")), free_port()
    if as_user:
        shutil.chown(folder, "postgres")

    def call(name: str, *arguments: str) -> None:
        done = subprocess.run(
            [*as_user, str(programs / name), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stdout} {done.stderr}"

    data = str(folder / "data")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        call("initdb", "-D", data, "-U", "mlflow", "--auth", "trust", "--no-sync")
        call("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
            yield {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port),
                "PGUSER": "mlflow",
                "PGDATABASE": "mlflow",
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            }
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """An S3-compatible store over HTTP, without buckets; the environment with which boto3 reaches it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }
    server.stop()
