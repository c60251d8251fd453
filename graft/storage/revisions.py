"""From a Git revision or a .dvc file to the address of the version that it names.

This runs where a run is started; what it gives is all that a pod needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from graft.errors import GraftError
from graft.storage.addresses import PLAIN, is_address, parse, versioned
from graft.storage.client import first_line

_REMOTE = "name one that is on S3: dvc remote add --default storage s3://bucket/prefix"


def settle(data: str) -> str:
    """The address of data as a step on any machine understands it.

    Args:
        data: A folder; the path of a .dvc file; s3://bucket/prefix; dvc+s3://bucket/prefix?md5=....dir;
            or git+URL@REVISION, with #PATH behind it where the .dvc file is not data.dvc at the top.

    Returns:
        An absolute path, s3://... or dvc+s3://...; the last also for a .dvc file and a Git revision.

    Raises:
        GraftError: it is no address, or the repository, the .dvc file or a remote on S3 is missing.
    """
    if data.startswith("git+"):
        return _of_revision(data)
    if is_address(data):
        parse(data)
        return data
    path = Path(data).absolute()
    if path.suffix == ".dvc" and not path.is_dir():
        if not path.is_file():
            raise GraftError(f"there is no file {path}", "give the path of the .dvc file of the data folder")
        return _of_repository(data, str(path.parent), None, path.name)
    return str(path)


def resolve(dvc_file: str | Path, remote: str) -> str:
    """The address of the version that a .dvc file names.

    Args:
        dvc_file: As `dvc add` writes it, such as data.dvc.
        remote: s3://bucket/prefix, as in .dvc/config.

    Raises:
        GraftError: the file names no folder, or the remote is not on S3.
    """
    return _address(Path(dvc_file).read_text(encoding="utf-8"), remote, str(dvc_file))


def _address(text: str, remote: str, where: str) -> str:
    out = _only_output(text, where)
    if out.get("hash") != "md5":
        raise GraftError(
            f"{where} was written by DVC 2", "run `dvc cache migrate --dvc-files` and `dvc push` with DVC 3"
        )
    if "files" in out:
        raise GraftError(
            f"{where} belongs to a version-aware remote, which keeps no list of the folder",
            "push the data to a remote without `version_aware` or `worktree`",
        )
    if not str(out["md5"]).endswith(".dir"):
        raise GraftError(f"{where} names a file, not a folder", "give the .dvc file of the data folder")
    return str(versioned(remote, str(out["md5"])))


def _only_output(text: str, where: str) -> dict[str, Any]:
    try:
        (out,) = yaml.safe_load(text)["outs"]
        if "md5" in out:
            return dict(out)
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        pass
    raise GraftError(f"{where} is not a .dvc file with one folder in it", "give the one that `dvc add` wrote")


def _of_revision(data: str) -> str:
    url, _, path = data.removeprefix("git+").partition("#")
    found = re.fullmatch(r"((?:[a-z]+://[^/]*)?/.+)@([^@]+)", url)  # a user, as in git@host, comes before "/"
    if not found:
        raise GraftError(f"{data} names no revision", "write git+URL@REVISION, with a branch, tag or commit")
    return _of_repository(data, found[1], found[2], path or "data.dvc")


def _of_repository(data: str, repository: str, revision: str | None, path: str) -> str:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo.open(repository, rev=revision) as repo:
            # without a revision, the path is that of a file beside which the repository was looked for
            root = repo.root_dir if revision else repository
            name = repo.fs.join(root, *PurePosixPath(path).parts)
            text = repo.fs.read_text(name, encoding="utf-8")
            url = _remote_url(repo.config, _only_output(text, data).get("remote"))
    except FileNotFoundError as error:
        fix = "write the .dvc file's path behind it: git+URL@REVISION#PATH"
        raise GraftError(f"{data}: there is no {path}", fix) from error
    except (DvcException, OSError) as error:
        fix = "check the repository and the revision, and that `dvc init` was run there"
        raise GraftError(f"{data} cannot be resolved: {first_line(error)}", fix) from error
    if not url.startswith(PLAIN):
        raise GraftError(f"{data}: the repository's default DVC remote is {url or 'not set'}", _REMOTE)
    return _address(text, url, data)


def _remote_url(config: Mapping[str, Any], name: str | None) -> str:
    """The address of the remote of this name, or of the default one; "" where there is none."""
    chosen = name or config["core"].get("remote")
    if chosen in (None, "auto-generated-upstream"):  # how DVC calls the cache of a repository without one
        return ""
    return str(config["remote"].get(chosen, {}).get("url", ""))
