import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.files import folder_md5, remove, sha256_file, whole_file, whole_folder, write_json


def test_a_file_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_folder_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()

    def failing() -> None:
        with whole_folder(tmp_path / "model") as temporary:
            (temporary / "new").touch()
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        failing()
    assert os.listdir(tmp_path / "model") == ["old"]
    assert os.listdir(tmp_path) == ["model"]
    with whole_folder(tmp_path / "model") as temporary:
        (temporary / "new").touch()
    assert os.listdir(tmp_path / "model") == ["new"]


def test_a_full_disk_is_named_with_its_fix_and_keeps_nothing(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")

    def full() -> None:
        with whole_file(tmp_path / "weights"), open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(GraftError, match=r"disk is full while writing .*weights.*\n.*free some space"):
        full()
    assert os.listdir(tmp_path) == []


def test_other_faults_of_the_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def denied() -> None:
        with whole_file(tmp_path / "a"):
            raise OSError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        denied()


def test_a_killed_writer_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from graft.files import whole_folder\n"
        "with whole_folder(sys.argv[1]) as t:\n"
        "    (t / 'a').write_text('x')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "model").exists()


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("x")
    (tmp_path / "a.txt").write_text("a")
    assert sha256_file(tmp_path / "a.txt").startswith("ca978112ca1bbdcafac231b39a23dc4d")
    first = folder_md5(tmp_path)
    (tmp_path / "b" / "x.txt").write_text("y")
    assert folder_md5(tmp_path) != first


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'


def test_removing_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    remove(tmp_path / "link")
    remove(tmp_path / "never-there")
    assert os.listdir(tmp_path) == ["real"]
