"""Pixels find room: in memory, or in a file where memory would not do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graft.errors import GraftError
from graft.images import memory
from graft.images.memory import available_memory, room_for

GIB = 2**30
KIB_FREE = 8 * 2**20  # 8 GiB


def machine(root: Path, files: dict[str, str]) -> Path:
    """A made-up root of the file system of a machine with 8 GiB free."""
    meminfo = f"MemTotal:       99999999 kB\nMemAvailable:   {KIB_FREE} kB\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(place: str, limit: str, use: int, inactive: int) -> dict[str, str]:
    """The files of a control group of version 2."""
    facts = {"max": limit, "current": str(use), "stat": f"anon 5\ninactive_file {inactive}\nfile 7"}
    return {f"sys/fs/cgroup/{place}memory.{name}": f"{text}\n" for name, text in facts.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({"proc/self/cgroup": "0::/\n"}, 8 * GIB),  # the outermost group has no limit
        ({"proc/self/cgroup": "0::/\n", **group("", str(4 * GIB), 2 * GIB, GIB)}, 3 * GIB),  # in a container
        ({"proc/self/cgroup": "0::/pod/one\n", **group("pod/one/", "max", 9, 0)}, 8 * GIB),
        (
            {  # the pod's limit is tighter than the container's
                "proc/self/cgroup": "0::/pod/one\n",
                **group("pod/one/", str(7 * GIB), GIB, 0),
                **group("pod/", str(5 * GIB), 2 * GIB, 0),
            },
            3 * GIB,
        ),
        ({"proc/self/cgroup": "0::/\n", **group("", str(GIB), 2 * GIB, 0)}, 0),
        (
            {  # version 1, seen from inside a container that does not see the path
                "proc/self/cgroup": "11:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}\n",
            },
            GIB * 3 // 2,
        ),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert available_memory(machine(tmp_path, files)) == expected


def test_this_machine_has_some_memory() -> None:
    assert 2**20 < available_memory() < 2**50


def test_small_arrays_are_in_memory() -> None:
    assert not isinstance(room_for((3, 4), "pixels"), np.memmap)


def test_large_arrays_are_in_a_file_that_nobody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    array = room_for((10, 3, 4, 4), "the pixels of 10 images")
    assert isinstance(array, np.memmap)
    assert (array.shape, array.dtype) == ((10, 3, 4, 4), np.uint8)
    assert "the pixels of 10 images take 0.0 GiB" in capsys.readouterr().err
    assert list((tmp_path / "home").iterdir()) == []
    array[:] = np.arange(480).reshape(array.shape).astype(np.uint8)
    assert array.ravel()[[0, 479]].tolist() == [0, 223]


def test_neither_memory_nor_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    with pytest.raises(GraftError, match=r"has no room either \(No space left on device\)") as caught:
        room_for((1000,), "pixels")
    assert "larger disk" in caught.value.fix


LIMITED = """
import resource, sys
from pathlib import Path
import pandas as pd
from graft.images import memory
from graft.images.loading import load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import read_table
table, room = read_table(sys.argv[1]), int(sys.argv[2])
memory.available_memory = lambda: room
load_images(table, table.rows.index[:2], Preprocessing(8, 8))  # threads have their stacks now
used = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmData" in l).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 200 * 2**20,) * 2)
index = pd.Index(list(table.rows.index) * 20)[:1000]
pixels = load_images(table, index, Preprocessing(448, 448)).pixels
assert pixels.numel() == 1000 * 3 * 448 * 448  # 602 MB
sums = [int(each.numpy().sum()) for each in pixels]
assert min(sums) > 0 and sums[0] == sums[len(table.rows)]
"""


@pytest.mark.parametrize("available", [2**40, 2**28])
def test_a_set_larger_than_memory_loads(table: object, available: int) -> None:
    """Held to 200 MB by the system, a process loads 600 MB of pixels if it knows how little it has."""
    folder = str(table.path)  # type: ignore[attr-defined]
    command = [sys.executable, "-c", LIMITED, folder, str(available)]
    environment = {name: value for name, value in os.environ.items() if name != "GRAFT_HOME"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if available == 2**40:
        assert "MemoryError" in run.stderr
    else:
        assert run.returncode == 0, run.stderr
