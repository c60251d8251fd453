"""What people write for --data, turned into what a pod understands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.storage.revisions import resolve, settle

FIRST, SECOND = "1" * 32, "2" * 32


def dvc_file(md5: str, more: str = "") -> str:
    return f"outs:\n- md5: {md5}\n  size: 3\n  nfiles: 1\n  hash: md5\n  path: data\n{more}"


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of data.dvc, "one" and "team/two"; the second also has sets/other.dvc."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / ".dvc").mkdir()
    git(folder, "init", "-q")
    (folder / ".dvc" / "config").write_text(
        "[core]\n    remote = storage\n['remote \"storage\"']\n    url = s3://team/dvc\n"
        "['remote \"old\"']\n    url = s3://team/old\n"
    )
    (folder / "data.dvc").write_text(dvc_file(f"{FIRST}.dir"))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "one")
    (folder / "data.dvc").write_text(dvc_file(f"{SECOND}.dir"))
    (folder / "sets").mkdir()
    (folder / "sets" / "other.dvc").write_text(dvc_file(f"{FIRST}.dir", "  remote: old\n"))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "two")
    git(folder, "branch", "team/two")
    return folder


def test_what_is_settled_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settle("data") == str(tmp_path / "data")
    assert settle("/some/where") == "/some/where"
    for address in ("s3://bucket/data", f"dvc+s3://bucket/remote?md5={FIRST}.dir"):
        assert settle(address) == address
    for wrong, problem in (("gs://bucket/data", "no address of data"), ("nowhere.dvc", "there is no file")):
        with pytest.raises(GraftError, match=problem):
            settle(wrong)


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ("@one", f"dvc+s3://team/dvc?md5={FIRST}.dir"),
        ("@team/two", f"dvc+s3://team/dvc?md5={SECOND}.dir"),
        ("@team/two#sets/other.dvc", f"dvc+s3://team/old?md5={FIRST}.dir"),
    ],
)
def test_a_git_revision(repository: Path, scheme: str, behind: str, expected: str) -> None:
    assert settle(f"git+{scheme}{repository}{behind}") == expected


def test_a_dvc_file_of_the_working_tree(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert settle("data.dvc") == f"dvc+s3://team/dvc?md5={SECOND}.dir"
    monkeypatch.chdir(repository / "sets")
    assert settle("other.dvc") == f"dvc+s3://team/old?md5={FIRST}.dir"


@pytest.mark.parametrize(
    ("behind", "problem", "fix"),
    [
        ("", "names no revision", "@REVISION"),
        ("@three", "three", "check the repository and the revision"),
        ("@one#sets/other.dvc", "there is no sets/other.dvc", "#PATH"),
    ],
)
def test_revisions_that_do_not_exist(repository: Path, behind: str, problem: str, fix: str) -> None:
    with pytest.raises(GraftError) as caught:
        settle(f"git+{repository}{behind}")
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_user_in_the_address_is_no_revision() -> None:
    with pytest.raises(GraftError, match="names no revision"):
        settle("git+ssh://git@host/team/repository")


@pytest.mark.parametrize("url", [None, "/mnt/dvc", "gs://team/dvc"])
def test_a_repository_without_a_remote_on_s3(tmp_path: Path, url: str | None) -> None:
    (tmp_path / ".dvc").mkdir()
    config = f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {url}\n" if url else ""
    (tmp_path / ".dvc" / "config").write_text(config + "[core]\n    no_scm = true\n" * (not url))
    if url:
        (tmp_path / ".dvc" / "config").write_text(
            config.replace("storage\n", "storage\n    no_scm = true\n", 1)
        )
    (tmp_path / "data.dvc").write_text(dvc_file(f"{FIRST}.dir"))
    with pytest.raises(GraftError, match=url or "not set") as caught:
        settle(str(tmp_path / "data.dvc"))
    assert "dvc remote add --default" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (dvc_file(FIRST), "names a file"),
        (dvc_file(f"{FIRST}.dir").replace("  hash: md5\n", ""), "DVC 2"),
        (dvc_file(f"{FIRST}.dir", "  files: []\n"), "version-aware"),
        ("outs: []", "not a .dvc file"),
        ("- 1", "not a .dvc file"),
        ("a: [", "not a .dvc file"),
    ],
)
def test_dvc_files_that_name_no_version(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "data.dvc").write_text(text)
    with pytest.raises(GraftError, match=problem):
        resolve(tmp_path / "data.dvc", "s3://bucket")


def test_resolving_a_file_needs_neither_git_nor_dvc(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(dvc_file(f"{FIRST}.dir"))
    code = (
        "import sys; from graft.storage.revisions import resolve; "
        "print(resolve(sys.argv[1], 's3://b/r/')); assert not {'dvc', 'boto3'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data.dvc")], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"dvc+s3://b/r?md5={FIRST}.dir\n", done.stderr
