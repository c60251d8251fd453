"""What a step's container gets of this machine.

A step finds in its container what it finds as a subprocess, under the same paths, and nothing else: the
run's folder, GRAFT_HOME, the data, weights from files, the folder of an MLflow without a server, caches of
weights, credentials of S3. The container belongs to the user who started the run, its own file system is
read-only, and it shares this machine's network, so that an address means the same inside as outside.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from graft.errors import GraftError
from graft.params import Params
from graft.registry.tracking import sqlite_file, tracking_uri
from graft.storage.addresses import is_address

RUN = "graft.run"  # the label that says whose a container is
# What a user sets in the shell for the steps. GRAFT_RUN and GRAFT_HOME are the driver's.
_PASSED: tuple[str, ...] = (
    "GRAFT_RUN",
    "GRAFT_HOME",
    "MLFLOW_",
    "AWS_",
    "HF_",
    "OMP_",
    "MKL_",
    "CUDA_VISIBLE_DEVICES",
)
_PASSED += ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_PASSED += ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_CREDENTIALS = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_CACHES = {"TORCH_HOME": "torch", "HF_HOME": "huggingface"}


def container_options(
    params: Params, folder: str, run: Path, *, image: str, engine: Mapping[str, Any]
) -> dict[str, Any]:
    """What docker's `containers.run` gets for every step.

    Args:
        image: The image's id; it stands for the code in the key of what a step keeps for reuse.
        engine: What the engine says about itself, as `docker info`.
    """
    from docker.types import DeviceRequest, Mount

    security = {option.partition(",")[0] for option in engine.get("SecurityOptions") or ()}
    read_only, writable = files_to_read(params, folder), folders_to_write(params, run)
    for path in writable:
        path.mkdir(parents=True, exist_ok=True)  # the engine would make it, as root
    mounts = {**dict.fromkeys(read_only, True), **dict.fromkeys(writable, False)}
    options = {
        "mounts": [Mount(str(path), str(path), "bind", read_only=only) for path, only in mounts.items()],
        "environment": environment(image),
        # Without root's rights, the engine shows its user as root inside.
        "user": "0:0" if "name=rootless" in security else f"{os.getuid()}:{os.getgid()}",
        "working_dir": str(Path.cwd()),  # what relative paths in params.yaml begin from
        "network_mode": "host",
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777"},
        "shm_size": "2g",  # loaders hand over batches there; the engine's own default is 64 MB
        "cap_drop": ["ALL"],
        # SELinux would otherwise ask for a label on the user's own files.
        "security_opt": ["no-new-privileges", *(["label=disable"] if "name=selinux" in security else [])],
        "init": True,  # hands signals on to the step
        "stop_signal": "SIGINT",  # as Ctrl-C; the step keeps its checkpoint and says "interrupted"
        "labels": {RUN: run.name},
    }
    if "nvidia" in engine.get("Runtimes", {}):
        options["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    return options


def environment(image: str) -> dict[str, str]:
    """The variables a step gets from here; the image sets the others."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    places = {name: str(path) for name, path in {**_credentials(), **_caches()}.items()}
    return {
        **passed,
        **places,
        "GRAFT_IMAGE": image,
        "USER": _user(),  # the registry's ledger names who acted
        "TINI_KILL_PROCESS_GROUP": "1",  # the signal reaches Python, not only the shell before it
    }


def files_to_read(params: Params, folder: str) -> list[Path]:
    """What the steps read but never write: data, weights, and files that variables name, as of credentials.

    Raises:
        GraftError: weights or a teacher are named by a path that begins with "~".
    """
    data = [] if is_address(folder) else [Path(folder)]
    found = [path for path in (*data, *_named_files(params.sections())) if path.exists()]
    files = [value for value in environment("").values() if os.path.isabs(value) and os.path.isfile(value)]
    return [*found, *map(Path, files)]  # what is absent is the step's to complain of


def folders_to_write(params: Params, run: Path) -> list[Path]:
    """Where the steps write."""
    home = Path(os.environ["GRAFT_HOME"]).absolute()
    return [run, home, *_store(tracking_uri(params.registry)), *_caches().values()]


def _named_files(settings: Any) -> Iterator[Path]:
    """Weights and teachers in the sections that are paths rather than names."""
    if isinstance(settings, Mapping):
        for key in ("weights", "teacher"):
            value = settings.get(key)
            if isinstance(value, str) and value.startswith("~"):
                raise GraftError(
                    f"{key}: {value} begins with ~, which is another folder in a container",
                    f"write the whole path: {Path(value).expanduser()}",
                )
            if isinstance(value, str):
                yield Path(value).absolute()
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _named_files(value)


def _store(uri: str) -> list[Path]:
    """The folder of an MLflow without a server; beside SQLite's file lie its journal and the artifacts."""
    if file := sqlite_file(uri):
        return [file.parent]
    parts = urlsplit(uri)
    return [Path(parts.path).absolute()] if parts.scheme in ("", "file") else []


def _credentials() -> dict[str, Path]:
    paths = {name: Path(os.environ.get(name, place)).expanduser() for name, place in _CREDENTIALS.items()}
    return {name: path.absolute() for name, path in paths.items() if path.is_file()}


def _caches() -> dict[str, Path]:
    """Where weights fetched earlier lie, if there are any."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    paths = {name: Path(os.environ.get(name, cache / own)).expanduser() for name, own in _CACHES.items()}
    return {name: path.absolute() for name, path in paths.items() if path.is_dir()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return str(os.getuid())
