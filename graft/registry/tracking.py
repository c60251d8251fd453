"""Where MLflow is, and whether it answers."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from graft.errors import GraftError
from graft.params import Registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
# None of these replaces what the user has set.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}  # MLflow itself waits four minutes for a dead server
_FIRST_CONTACT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
}


def tracking_uri(params: Registry) -> str:
    """The parameter's URI, else MLFLOW_TRACKING_URI, else mlflow.db in the working folder.

    The path of an SQLite file becomes absolute.
    """
    uri = params.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    file = sqlite_file(uri)
    return f"{_SQLITE}{file}" if file else uri


def reach(uri: str) -> MlflowClient:
    """A client of the MLflow at `uri`, once it has answered.

    Raises:
        GraftError: it does not answer within seconds, refuses the user, is no MLflow, or cannot be written.
    """
    file = sqlite_file(uri)
    if file:
        _check_writable(file)
    elif not uri.startswith(("http://", "https://")) and "://" in uri:
        _check_database(uri)
    _configure()
    from mlflow import MlflowClient

    try:
        with _unless_set(_FIRST_CONTACT), _quick_commits() if is_new(uri) else nullcontext():
            client = MlflowClient(uri)
            client.search_registered_models(max_results=1)
    except Exception as error:  # MLflow lets errors of urllib3, of SQLAlchemy and of drivers through
        raise _unreachable(uri, error) from error
    return client


@contextmanager
def using(uri: str) -> Iterator[None]:
    """MLflow's module-level functions talk to `uri` inside; afterwards to whom they did before."""
    _configure()
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        with _unless_set(_PATIENCE):
            yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def answering(uri: str, what: str) -> Iterator[None]:
    """MLflow's own errors inside become a GraftError that says what could not be done.

    Raises:
        GraftError: MLflow refused, or stopped answering.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise GraftError(
            f"MLflow at {shown(uri)} could not {what}: {_reason(uri, error)}",
            "see the server's log, then run the step again; it goes on where it stopped",
        ) from error


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id; it is made where there is none.

    Beside an SQLite file its artifacts go to the folder `mlartifacts`; a server decides itself.

    Raises:
        GraftError: an experiment of this name was deleted.
    """
    from mlflow.exceptions import MlflowException

    file = sqlite_file(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        location = (file.parent / "mlartifacts").as_uri() if file else None
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:  # made by someone else since
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise GraftError(
            f"registry.experiment: {name!r} was deleted in MLflow at {shown(uri)}",
            f"run `mlflow experiments restore -x {found.experiment_id}`, or give another name",
        )
    return found.experiment_id


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of an SQLite database; None for a URI of another kind."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def is_new(uri: str) -> bool:
    """Whether it is an SQLite file that nothing was ever written to."""
    file = sqlite_file(uri)
    return file is not None and (not file.exists() or file.stat().st_size == 0)


def shown(uri: str) -> str:
    """The URI for messages and records: without its password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))


def _configure() -> None:
    """Before MLflow is imported: no telemetry, few words."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@contextmanager
def _unless_set(values: Mapping[str, str]) -> Iterator[None]:
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _check_writable(file: Path) -> None:
    """MLflow itself would try for minutes."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=3)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # takes the lock that writing needs
    except (OSError, sqlite3.Error) as error:
        raise GraftError(
            f"MLflow's database {file} cannot be written: {error}",
            "give a file that can be written in registry.tracking_uri or MLFLOW_TRACKING_URI "
            "(sqlite:///path/mlflow.db), and stop other programs that hold it",
        ) from error


@contextmanager
def _quick_commits() -> Iterator[None]:
    """New SQLite connections inside do not wait for the disk: MLflow makes its tables in 60 commits.

    Afterwards they do. Nothing of worth is in the file yet, should the power fail inside.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    opened: list[sqlite3.Connection] = []

    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        opened.append(connection)

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)
        for connection in opened:
            with suppress(sqlite3.ProgrammingError):  # closed since
                connection.execute("PRAGMA synchronous = FULL")


def _check_database(uri: str) -> None:
    """One attempt at a database of a server; MLflow itself would try for minutes."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
    except sqlalchemy.exc.NoSuchModuleError:
        return  # not a database: some other kind of store that MLflow knows
    except ImportError as error:
        raise _unreachable(uri, error) from error
    try:
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(uri, error) from error
    finally:
        engine.dispose()


def _unreachable(uri: str, error: Exception) -> GraftError:
    text = _reason(uri, error)
    fix = (
        "start that server, or correct registry.tracking_uri or MLFLOW_TRACKING_URI; "
        "without both, mlflow.db in the working folder is used"
    )
    if re.search(r"error code 40[13]\b", text):
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    if isinstance(error, ImportError):
        fix = f"install the database's driver, {error.name}"
    return GraftError(f"MLflow at {shown(uri)} cannot be used: {text}", fix)


def _reason(uri: str, error: Exception) -> str:
    """The first line of an error, cut down to its innermost cause, without the URI's password."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = text.rpartition("(Caused by ")[2]
    if secret := urlsplit(uri).password:
        text = text.replace(secret, "***")
    return text if len(text) < 300 else f"{text[:300]} ..."
