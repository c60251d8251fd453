"""Where MLflow is, and what the user is told when it is not there."""

from __future__ import annotations

import http.server
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from graft.errors import GraftError
from graft.params import Registry
from graft.registry import tracking


def test_the_parameter_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    assert tracking.tracking_uri(Registry(tracking_uri="http://parameter:5000")) == "http://parameter:5000"
    assert tracking.tracking_uri(Registry()) == "http://environment:5000"


def test_without_both_it_is_a_file_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri(Registry()) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_relative_file_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = tracking.tracking_uri(Registry(tracking_uri="sqlite:///deep/my.db"))
    assert uri == f"sqlite:///{tmp_path / 'deep/my.db'}"
    assert tracking.tracking_uri(Registry(tracking_uri=uri)) == uri


@pytest.fixture
def other_server() -> Iterator[str]:
    """Something that speaks HTTP and is no MLflow; the path's first part is the status it answers with."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refused(uri: str, limit: float) -> GraftError:
    environment = dict(os.environ)
    start = time.monotonic()
    with pytest.raises(GraftError) as caught:
        tracking.reach(uri)
    assert time.monotonic() - start < limit
    assert {k: v for k, v in os.environ.items() if "HTTP" in k} == {
        k: v for k, v in environment.items() if "HTTP" in k
    }
    return caught.value


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = refused(f"http://127.0.0.1:{port}", limit=5)
    assert f"http://127.0.0.1:{port}" in error.problem
    assert "Connection refused" in error.problem
    assert "registry.tracking_uri" in error.fix
    assert "MLFLOW_TRACKING_URI" in error.fix


def test_wrong_host() -> None:
    error = refused("http://no-such-host.invalid:5000", limit=15)
    assert "no-such-host.invalid" in error.problem
    assert "registry.tracking_uri" in error.fix


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refused(f"http://127.0.0.1:{silent.getsockname()[1]}", limit=12)
    assert "timed out" in error.problem


def test_the_user_may_be_less_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused(f"http://127.0.0.1:{silent.getsockname()[1]}", limit=2.5)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_server_that_is_no_mlflow(other_server: str, status: int) -> None:
    error = refused(f"{other_server}/{status}", limit=8)
    assert f"{other_server}/{status}" in error.problem
    assert "registry.tracking_uri" in error.fix


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_password(other_server: str, status: int) -> None:
    error = refused(f"{other_server}/{status}", limit=8)
    assert str(status) in error.problem
    assert "MLFLOW_TRACKING_USERNAME" in error.fix


def test_a_database_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    error = refused(f"sqlite:///{tmp_path}/file/mlflow.db", limit=2)
    assert f"{tmp_path}/file/mlflow.db" in error.problem
    assert "sqlite:///path/mlflow.db" in error.fix


def test_a_database_that_is_another_file(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database" * 100)
    error = refused(f"sqlite:///{tmp_path}/mlflow.db", limit=2)
    assert "not a database" in error.problem
    assert (tmp_path / "mlflow.db").read_text().startswith("not a database")


def test_a_database_that_another_program_holds(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "mlflow.db")
    holder.execute("BEGIN EXCLUSIVE")
    error = refused(f"sqlite:///{tmp_path}/mlflow.db", limit=8)
    holder.close()
    assert "locked" in error.problem
    assert "stop other programs" in error.fix


def test_a_database_whose_dialect_is_unknown() -> None:
    error = refused("mssql+nodriver://user:geheim@127.0.0.1:9/mlflow", limit=5)
    assert "mlflow" in error.problem
    assert "geheim" not in str(error)


def test_a_kind_of_store_that_mlflow_does_not_know() -> None:
    assert "htp://example" in refused("htp://example", limit=8).problem


def test_a_password_is_never_shown() -> None:
    error = refused("http://user:geheim@127.0.0.1:9", limit=5)
    assert "geheim" not in str(error)
    assert "http://user:***@127.0.0.1:9" in error.problem


word = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)


@given(scheme=st.sampled_from(["http", "https", "postgresql"]), user=word, password=word, host=word)
def test_shown_masks_the_password_and_nothing_else(scheme: str, user: str, password: str, host: str) -> None:
    assert tracking.shown(f"{scheme}://{user}:{password}@{host}/x") == f"{scheme}://{user}:***@{host}/x"
    assert tracking.shown(f"{scheme}://{host}/x") == f"{scheme}://{host}/x"


def test_using_leaves_the_environment_as_it_was(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
    with tracking.using(str(registry.tracking_uri)):
        assert mlflow.get_tracking_uri() == registry.tracking_uri
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine:5000"
    assert mlflow.get_tracking_uri() == "http://mine:5000"


def test_no_telemetry() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_artifacts_stand_beside_the_database(registry: Registry, tmp_path: Path) -> None:
    uri = str(registry.tracking_uri)
    client = tracking.reach(uri)
    made = tracking.experiment_id(client, uri, "trial")
    assert client.get_experiment(made).artifact_location == (tmp_path / "mlartifacts").as_uri()
    assert tracking.experiment_id(client, uri, "trial") == made


def test_a_new_database_waits_for_the_disk_once_its_tables_are_made(tmp_path: Path) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    opened: list[sqlite3.Connection] = []

    def connected(connection: sqlite3.Connection, _: object) -> None:
        opened.append(connection)

    event.listen(Engine, "connect", connected)
    try:
        client = tracking.reach(f"sqlite:///{tmp_path / 'mlflow.db'}")
        client.create_experiment("kept")
    finally:
        event.remove(Engine, "connect", connected)
    alive = [connection for connection in opened if _is_open(connection)]
    assert alive
    assert [each.execute("PRAGMA synchronous").fetchone() for each in alive] == [(2,)] * len(alive)


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("SELECT 1").fetchone())
    except sqlite3.ProgrammingError:
        return False


def test_a_deleted_experiment_is_named_with_its_way_back(registry: Registry) -> None:
    uri = str(registry.tracking_uri)
    client: MlflowClient = tracking.reach(uri)
    made = tracking.experiment_id(client, uri, "trial")
    client.delete_experiment(made)
    with pytest.raises(GraftError, match="'trial' was deleted") as caught:
        tracking.experiment_id(client, uri, "trial")
    assert f"mlflow experiments restore -x {made}" in caught.value.fix


def test_an_error_of_mlflow_inside_becomes_one_with_a_fix(registry: Registry) -> None:
    client = tracking.reach(str(registry.tracking_uri))
    with (
        pytest.raises(GraftError, match="could not look for a model") as caught,
        tracking.answering(str(registry.tracking_uri), "look for a model"),
    ):
        client.get_registered_model("absent")
    assert "run the step again" in caught.value.fix
