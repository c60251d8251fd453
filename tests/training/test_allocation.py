"""Freed memory stays within, and goes back to the system afterwards."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, numpy as np
from contextlib import nullcontext
from graft.training.allocation import memory_kept
def pages():
    return int(open("/proc/self/statm").read().split()[1])
with memory_kept() if sys.argv[1] == "kept" else nullcontext():
    np.ones(64 * 2**20, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(64 * 2**20, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    inside = pages()
print(faults, inside - pages())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_pages_are_cleared_once_and_given_back() -> None:
    def run(how: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    (plain, _), (kept, returned) = run("plain"), run("kept")
    if not plain:
        pytest.skip("this C library keeps freed memory by itself")
    assert kept < plain / 10
    assert returned * 4096 > 60 * 2**20
