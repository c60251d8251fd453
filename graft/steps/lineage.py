"""Where a run came from: the commit and the parameters, for whoever asks later."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from graft.params import Params


def lineage(params: Params) -> dict[str, Any]:
    """Git commit (of GRAFT_GIT_COMMIT, else of the working folder), parameters and their SHA-256."""
    values = params.sections()
    text = json.dumps(values, sort_keys=True)
    return {
        "git_commit": os.environ.get("GRAFT_GIT_COMMIT") or _git_commit(),
        "params": values,
        "params_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _git_commit() -> str:
    """The commit checked out here, "+changes" behind it if tracked files differ, or "unknown"."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=Path.cwd(), check=True, capture_output=True, text=True
    ).stdout.strip()
