"""Running a step: reuse what it made before from the same inputs, else make it, and leave a record.

A step's key is the SHA-256 of everything its outputs depend on: graft's own code, its section of
params.yaml, and the content of its inputs. Outputs are kept under the key, linked rather than copied.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import graft
from graft.errors import GraftError
from graft.files import remove, sha256_file, whole_folder, write_json
from graft.progress import say

KEPT_PER_STEP = 8


def run_step(
    name: str,
    find: Callable[[], Callable[..., Any]],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    reusable: bool = True,
) -> None:
    """Call a step with settings, inputs and outputs, or take its outputs from an earlier, equal call.

    Two environment variables, set by the driver, say where things are kept: GRAFT_HOME holds outputs
    for reuse and the checkpoints of unfinished steps (without it nothing outlives the step), and
    GRAFT_RUN the folder that receives this step's record, steps/<name>.json.

    Args:
        name: The step.
        find: Gives the step's function; importing what it needs takes seconds, so only where it runs.
            The function gets paths as `Path`, and may take `work`, a folder that survives a kill until
            the step has succeeded.
        settings: Parameters that are not artifacts.
        inputs: Paths of existing artifacts, by argument.
        outputs: Paths to write, by argument.
        reusable: False where the outcome depends on more than the arguments, such as a registry.

    Raises:
        GraftError: what the step found wrong; the record then holds the problem and the fix.
    """
    start = time.monotonic()
    with _recorded(name, start) as record:
        key = _key(name, settings, inputs)
        home = _home()
        kept = home / "cache" / name / key
        record |= {"key": key, "reused": reusable and kept.is_dir()}
        if record["reused"]:
            for argument, path in outputs.items():
                _link(kept / argument, Path(path))
            os.utime(kept)
            say(f"{name}: reused, since neither inputs, parameters nor code changed")
            return
        work = home / "work" / name / key
        work.mkdir(parents=True, exist_ok=True)
        function = find()
        extra = {"work": work} if "work" in inspect.signature(function).parameters else {}
        paths = {argument: Path(path) for argument, path in {**inputs, **outputs}.items()}
        for path in outputs.values():
            remove(Path(path))  # what an earlier run left shares its bytes with what is kept for reuse
        function(**settings, **paths, **extra)
        if reusable and "GRAFT_HOME" in os.environ:
            _keep(kept, outputs)
        shutil.rmtree(work, ignore_errors=True)
        say(f"{name}: done in {time.monotonic() - start:.1f} s")


def _home() -> Path:
    home = os.environ.get("GRAFT_HOME")
    return Path(home).absolute() if home else Path(tempfile.mkdtemp(prefix="graft-"))


def _key(name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    parts = {
        "step": name,
        "code": _code_digest(),
        "settings": settings,
        "inputs": {argument: content_digest(Path(path)) for argument, path in inputs.items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def content_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of a file or of every file in a folder; "absent" of neither."""
    if not path.exists():
        return "absent"
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\0".encode())
    return digest.hexdigest()


def _code_digest() -> str:
    digest = hashlib.sha256()
    root = Path(graft.__file__).parent
    for file in sorted(root.rglob("*")):
        if file.suffix in (".py", ".j2"):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _keep(kept: Path, outputs: Mapping[str, str]) -> None:
    with whole_folder(kept) as folder:
        for argument, path in outputs.items():
            _link(Path(path), folder / argument)
    with suppress(FileNotFoundError):  # another process makes room here, too
        entries = kept.parent.glob("[0-9a-f]*")
        older = sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in older[KEPT_PER_STEP:]:
            remove(entry)


def _link(source: Path, destination: Path) -> None:
    """A copy that shares the bytes where the file system can; artifacts are never written in place."""
    remove(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, copy_function=_link_file)
    else:
        _link_file(str(source), str(destination))


def _link_file(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


@contextmanager
def _recorded(name: str, start: float) -> Iterator[dict[str, Any]]:
    record: dict[str, Any] = {"step": name, "status": "failed", "started": time.time(), "reused": False}
    try:
        yield record
        record["status"] = "succeeded"
    except GraftError as error:
        record |= {"problem": error.problem, "fix": error.fix}
        raise
    except KeyboardInterrupt:
        record["status"] = "interrupted"
        raise
    except Exception as error:
        record |= {"problem": f"{type(error).__name__}: {error}", "fix": "see the step's log"}
        raise
    finally:
        record["seconds"] = round(time.monotonic() - start, 2)
        if run := os.environ.get("GRAFT_RUN"):
            write_json(Path(run) / "steps" / f"{name}.json", record)
