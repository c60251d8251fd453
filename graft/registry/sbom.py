"""The software bill of materials: every package beside this Python, as CycloneDX JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SECONDS = 120


@cache
def bill_of_materials() -> str:
    """CycloneDX 1.6 of the environment that runs, made once per process; needs no network.

    Raises:
        RuntimeError: it cannot be made; the text says why.
    """
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        file = Path(folder) / "sbom.cdx.json"
        command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable]
        # Validation takes twenty times as long as the bill; a test validates part of it instead.
        options = ["--output-reproducible", "--no-validate", "--spec-version", "1.6", "-o", str(file)]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(str(error)) from error
        if done.returncode or not file.is_file():
            raise RuntimeError((done.stderr.strip().splitlines() or ["cyclonedx-py says nothing"])[-1])
        text = file.read_text(encoding="utf-8")
    json.loads(text)
    return text


def write_bill(path: Path) -> None:
    """Write the bill; where it cannot be made, say so and go on: a model is not lost over it."""
    try:
        text = bill_of_materials()
    except (RuntimeError, ValueError) as error:
        print(f"no software bill of materials: {error}", file=sys.stderr)
        return
    path.write_text(text, encoding="utf-8")
