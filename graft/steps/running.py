"""Running a step: reuse what it made before from the same inputs, else make it, and leave a record.

A step's key is the SHA-256 of everything its outputs depend on: graft's own code, its section of
params.yaml, the content of its inputs, and the image it runs in (GRAFT_IMAGE, where there is one).
Outputs are kept under the key, linked rather than copied. The record holds the parts of the key, so that
one run can be compared with another.
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
from functools import cache
from pathlib import Path
from typing import Any

import graft
from graft.errors import GraftError
from graft.files import link_file, remove, sha256_file, whole_folder, write_json
from graft.progress import say
from graft.steps.pinning import WEIGHTS, loose_names, names_content
from graft.storage.addresses import is_address

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
        inputs: Paths of existing artifacts, by argument; an address of data (`graft.storage`) stays text.
        outputs: Paths to write, by argument.
        reusable: False where the outcome depends on more than the arguments, such as a registry. Weights
            that are named without their hash may be others tomorrow, and are never taken for the same.

    Raises:
        GraftError: what the step found wrong; the record then holds the problem and the fix.
    """
    start = time.monotonic()
    with _recorded(name, start) as record:
        _refuse_stale(name, settings, inputs, reusable)
        reusable = reusable and not any(loose_names(settings, WEIGHTS))
        digests = {argument: input_digest(path) for argument, path in inputs.items()}
        parts = key_parts(name, settings, digests)
        key = reuse_key(parts)
        home = _home()
        kept = kept_at(home, name, key)
        record |= {"key": key, "parts": parts, "reusable": reusable, "reused": reusable and kept.is_dir()}
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
        given = {argument: path if is_address(path) else Path(path) for argument, path in inputs.items()}
        paths = {argument: Path(path) for argument, path in outputs.items()}
        for path in outputs.values():
            remove(Path(path))  # what an earlier run left shares its bytes with what is kept for reuse
        function(**settings, **given, **paths, **extra)
        if reusable and "GRAFT_HOME" in os.environ:
            _keep(kept, outputs)
        shutil.rmtree(work, ignore_errors=True)
        say(f"{name}: done in {time.monotonic() - start:.1f} s")


def _home() -> Path:
    home = os.environ.get("GRAFT_HOME")
    return Path(home).absolute() if home else Path(tempfile.mkdtemp(prefix="graft-"))


def key_parts(name: str, settings: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Everything a step's outputs depend on; `digests` stand for the content of its inputs."""
    return {
        "step": name,
        "code": _code_digest(),
        "image": os.environ.get("GRAFT_IMAGE"),
        "settings": _plain(settings),
        "inputs": dict(digests),
    }


def reuse_key(parts: Mapping[str, Any]) -> str:
    """The key under which a step's outputs are kept: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def kept_at(home: Path, name: str, key: str) -> Path:
    """The folder in which a step's outputs are kept, each below its argument's name."""
    return home / "cache" / name / key


def input_digest(path: str) -> str:
    """What stands for an input's content in the key; of an address no more is read than its listing."""
    if not is_address(path):
        return content_digest(Path(path))
    from graft.storage.folders import address_digest

    return address_digest(path)


def _plain(value: Any) -> Any:
    """Whole numbers as int: Kubeflow turns each into a float on the way to a step, DVC does not."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refuse_stale(name: str, settings: Mapping[str, Any], inputs: Mapping[str, str], reusable: bool) -> None:
    """Fail where Kubeflow would keep this call's outputs although another call like it may differ.

    Kubeflow's cache compares arguments, not what they name. Whether it is on is decided when the
    pipeline is compiled, from the arguments it had then; a run may have been given others.
    """
    if "GRAFT_KFP_CACHE" not in os.environ:
        return
    folders = [path for path in (inputs.get("folder"),) if path and not names_content(path)]
    loose = [*folders, *loose_names(settings)]
    if loose or not reusable:
        raise GraftError(
            f"{name} runs with Kubeflow's cache on, but {', '.join(loose) or 'the registry'} may be another "
            "tomorrow",
            "compile the pipeline with the arguments it runs with, or name versions (md5= of data, sha256 of "
            "weights)",
        )


def content_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of a file or of every file in a folder; "absent" of neither."""
    if not path.exists():
        return "absent"
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\0".encode())
    return digest.hexdigest()


@cache
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
        shutil.copytree(source, destination, copy_function=link_file)
    else:
        link_file(source, destination)


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
