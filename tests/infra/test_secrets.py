"""infra/kubernetes/secrets.sh against a kubectl that keeps what it is given in a folder."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.manifests import INFRA
from tests.infra.policies import table_of_secrets

# Real kubectl makes the secret's JSON; `get` and `annotate` work on files.
KUBECTL = """#!/bin/sh
set -eu
echo "$*" >> "$STATE/calls"
if [ "$1" = apply ]; then exit 0; fi
space=$2 verb=$3
case $verb in
create) "$REAL" create secret generic "$6" "$7" --dry-run=client --output json > "$STATE/$space.$6" ;;
get)
    test -e "$STATE/$space.$5"
    case "$*" in *jsonpath*)
        key=${7##*.data.}; key=${key%\\}}
        "$PYTHON" -c 'import json,sys; print(json.load(open(sys.argv[1]))["data"][sys.argv[2]], end="")' \\
            "$STATE/$space.$5" "$key" ;;
    esac ;;
annotate) echo "$*" >> "$STATE/annotated" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, which is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text(KUBECTL)
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    python = str(shutil.which("python3"))
    return {
        "STATE": str(tmp_path),
        "REAL": kubectl,
        "PYTHON": python,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
    }


def run(cluster: dict[str, str], *arguments: str, **more: str) -> str:
    done = subprocess.run(
        ["sh", str(INFRA / "kubernetes/secrets.sh"), *arguments],
        env={**cluster, **more}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(cluster: dict[str, str]) -> dict[str, dict[str, str]]:
    """By namespace.name."""
    return {
        file.name: {
            key: base64.b64decode(value).decode()
            for key, value in json.loads(file.read_text())["data"].items()
        }
        for file in Path(cluster["STATE"]).glob("*.*")
    }


def test_it_makes_what_the_readme_lists(cluster: dict[str, str]) -> None:
    said = run(cluster, "--local")
    found = made(cluster)
    assert {name.partition(".")[2]: set(keys) for name, keys in found.items()} == table_of_secrets()
    assert found["graft.mlflow-pipeline"] == found["kubeflow.mlflow-pipeline"]
    assert found["graft.s3-artifacts"] == found["graft.s3-backups"] == found["graft.s3-serving"]
    assert "s3-serving" in (Path(cluster["STATE"]) / "annotated").read_text()
    values = [value for keys in found.values() for name, value in keys.items() if "USERNAME" not in name]
    assert min(map(len, values)) == 48
    calls = (Path(cluster["STATE"]) / "calls").read_text()
    assert not [value for value in values if value in calls or value in said]  # nobody sees them


def test_a_second_run_changes_nothing_and_mends_what_is_missing(cluster: dict[str, str]) -> None:
    run(cluster, "--local")
    before = made(cluster)
    for name in ("kubeflow.mlflow-pipeline", "graft.s3-serving"):
        (Path(cluster["STATE"]) / name).unlink()
    assert "graft/postgres: there, left alone" in run(cluster, "--local")
    assert made(cluster) == before


def test_keys_of_a_store_outside(cluster: dict[str, str]) -> None:
    run(cluster, S3_ARTIFACTS="AKIA1:a/b+c:d=", S3_BACKUPS="AKIA2:s")
    found = made(cluster)
    assert found["graft.s3-artifacts"] == {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "a/b+c:d="}
    assert found["graft.s3-backups"]["AWS_ACCESS_KEY_ID"] == "AKIA2"
    assert "graft.s3-serving" not in found  # then a role must let KServe read
