"""One trial in a pod of Katib: `python -m pipelines.tuning.katib_trial --data ADDRESS ...`.

Each epoch's score and at last the candidate's go to stdout, behind the time: Katib's collector reads them
there, and its early stopping needs their order.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from graft.errors import GraftError
from graft.params import Params, read_params
from pipelines.environment import exported
from pipelines.tuning.trial import Place, score_trial

PARAMS = "GRAFT_PARAMS"  # environment variable that holds params.yaml
METRIC, LOSS = "val_accuracy", "val_loss"
LOG_TAIL = 40  # lines shown of a trial that failed


def main(arguments: Sequence[str]) -> int:
    """Exit status 0, or 1 with the problem on stderr."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.tuning.katib_trial")
    parser.add_argument("--objective", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="graft-trial-") as folder:
        home = Path(os.environ.get("GRAFT_HOME", f"{folder}/home"))
        place = Place(given.data, Path(folder) / "trial", home / "locks")
        place.folder.mkdir()
        (Path(folder) / "params.yaml").write_text(os.environ[PARAMS], encoding="utf-8")
        try:
            with exported({"GRAFT_HOME": str(home)}):
                params = read_params([Path(folder) / "params.yaml"], given.set)
                _run(params, given.objective, place, sys.stdout)
        except GraftError as error:
            _show_log(place.folder / "log.txt")
            print(error, file=sys.stderr)
            return 1
    return 0


def _run(params: Params, objective: str, place: Place, out: TextIO) -> None:
    """Steps print to a log of their own, scores to `out`."""

    def report(_epoch: int, accuracy: float) -> None:
        _tell(out, METRIC, accuracy)

    score = score_trial(params, objective, place, report)
    _tell(out, LOSS, score.loss)
    _tell(out, METRIC, score.accuracy)


def _tell(out: TextIO, name: str, value: float) -> None:
    moment = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    print(f"{moment} {name}={value:.6f}", file=out, flush=True)


def _show_log(log: Path) -> None:
    if log.is_file():
        sys.stderr.writelines(log.read_text(encoding="utf-8").splitlines(keepends=True)[-LOG_TAIL:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
