"""Who moved `champion`, when and why: MLflow keeps where an alias points, but not where it pointed.

The ledger is kept as tags of the registered model. There every user of the registry sees it, it is in
the registry's backup, and it needs no rights but those that moving an alias needs. A file would be lost
with a laptop, and an artifact can only be replaced as a whole.

MLflow has no compare-and-swap, and setting a tag replaces it. So every entry has a key that nobody else
ever writes, `ledger.<number>.<random>`, and so has its outcome, `ledger.<number>.<random>.outcome`:
nothing is overwritten. An entry is written before the alias moves, its outcome afterwards; an entry
without outcome is a move that is under way or whose process died, which the next one finds out.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

DONE, WITHDRAWN, ABANDONED = "done", "withdrawn", "abandoned"
FOUND = "found"  # the action of an entry for a move that the ledger did not see
LONGEST = 1500  # characters of a text; MLflow's databases cut a tag at 5000
_KEY = re.compile(r"ledger\.(\d{6})\.[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """One move of an alias.

    Attributes:
        number: Of the entry; where two writers raced, of both.
        key: The tag that holds it.
        when: ISO 8601, UTC, by the writer's clock.
        who: A user or a pipeline run.
        action: "register", "promote", "rollback", "copy" or "found".
        before, version: Where the alias pointed (None: nowhere), and where to.
        why: In words.
        evidence: Such as run_id and decision.
        outcome: "done", "withdrawn" (another was faster), "abandoned" (its process died before the
            move), or None while it is under way.
        note: On the outcome.
    """

    number: int
    key: str
    when: str
    who: str
    action: str
    alias: str
    before: str | None
    version: str
    why: str
    evidence: Mapping[str, Any]
    outcome: str | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it; `before` and `version` are named from and to."""
        values = {
            name: value for name, value in vars(self).items() if name not in ("key", "before", "version")
        }
        return values | {"from": self.before, "to": self.version}


def read_ledger(tags: Mapping[str, str]) -> list[Entry]:
    """The entries among a registered model's tags, oldest first."""
    keys = sorted(key for key in tags if _KEY.fullmatch(key))
    return [_parse(key, tags[key], tags.get(f"{key}.outcome")) for key in keys]


def draft(
    action: str, alias: str, version: str, *, why: str, evidence: Mapping[str, Any], run: str | None = None
) -> Entry:
    """An entry that has not been written yet, and so has no number.

    Args:
        run: The pipeline run that moves it; a user otherwise.
    """
    short = {name: _cut(value) if isinstance(value, str) else value for name, value in evidence.items()}
    return Entry(0, "", "", actor(run), action, alias, None, str(version), _cut(why), short)


def write(client: MlflowClient, name: str, entry: Entry, number: int, before: str | None) -> Entry:
    """Append a draft under a number, as a move from `before`."""
    key = f"ledger.{number:06d}.{secrets.token_hex(4)}"
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    written = replace(entry, number=number, key=key, when=now, before=before)
    client.set_registered_model_tag(name, key, _text(written))
    return written


def close(client: MlflowClient, name: str, entry: Entry, outcome: str, note: str = "") -> Entry:
    """Append what became of an entry."""
    text = json.dumps({"outcome": outcome, "note": _cut(note)}, ensure_ascii=False)
    client.set_registered_model_tag(name, f"{entry.key}.outcome", text)
    return replace(entry, outcome=outcome, note=note)


def pending(entries: Sequence[Entry]) -> list[Entry]:
    """Moves that are under way, or whose process died."""
    return [entry for entry in entries if entry.outcome is None]


def next_number(entries: Sequence[Entry]) -> int:
    """Above every number that was ever taken."""
    return max((entry.number for entry in entries), default=0) + 1


def champions(entries: Sequence[Entry]) -> list[str]:
    """Versions by their turn as champion; what a rollback left behind is not among them."""
    turns: list[str] = []
    for entry in entries:
        if entry.outcome != DONE:
            continue
        if entry.action == "rollback" and entry.version in turns:
            while turns[-1] != entry.version:
                turns.pop()
        elif turns[-1:] != [entry.version]:
            turns.append(entry.version)
    return turns


def last_known(entries: Sequence[Entry]) -> str | None:
    """Where the alias points, as far as the ledger knows."""
    return next((entry.version for entry in reversed(entries) if entry.outcome == DONE), None)


def actor(run: str | None = None) -> str:
    """Who acts here: a pipeline run and its user, or the user."""
    run = run or (Path(os.environ["GRAFT_RUN"]).name if "GRAFT_RUN" in os.environ else None)
    try:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = "unknown user"
    return f"run {run} of {user}" if run else user


def _parse(key: str, text: str, outcome: str | None) -> Entry:
    values = json.loads(text)
    values |= {"before": values.pop("from"), "version": values.pop("to")}
    number = int(key.split(".")[1])
    return Entry(number=number, key=key, **values, **(json.loads(outcome) if outcome else {}))


def _text(entry: Entry) -> str:
    values = entry.to_dict()
    kept = {name: value for name, value in values.items() if name not in ("number", "outcome", "note")}
    return json.dumps(kept, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
