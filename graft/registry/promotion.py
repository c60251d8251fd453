"""Moving `champion`: one writer at a time, every move in the ledger, none without a model behind it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError
from graft.params import Registry
from graft.registry import ledger
from graft.registry.champion import fetch
from graft.registry.ledger import ABANDONED, DONE, FOUND, WITHDRAWN, Entry
from graft.registry.versions import connected, registered_model, version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION = "champion"
LEASE = 20.0  # seconds that a writer may take between its entry and the move
LONG_AGO = 600.0  # seconds; beyond any difference of two machines' clocks
_ATTEMPTS = 12


class Superseded(GraftError):
    """The champion is not the one that the move was decided against."""


def promote(params: Registry, number: str, reason: str = "") -> dict[str, Any]:
    """Make a version champion, by hand.

    Returns:
        name, from, to, moved (False where it was champion already).

    Raises:
        GraftError: there is no such version, its files are not whole, another one moved `champion`
            at the same time, or MLflow cannot be used.
    """
    with connected(params, "promote the model") as client:
        return _move_by_hand(client, params.model_name, "promote", number, reason or "by hand")


def rollback(params: Registry, reason: str, to: str | None = None) -> dict[str, Any]:
    """Make an earlier version champion again.

    Args:
        reason: What was wrong with the champion.
        to: The version; the champion before this one otherwise, by the ledger.

    Returns:
        As `promote`.

    Raises:
        GraftError: as `promote`, and where there is nothing to go back to.
    """
    name = params.model_name
    with connected(params, "roll back the model") as client:
        if to is None:
            model = registered_model(client, name)
            _record_unseen(client, name, model)
            to = _previous(registered_model(client, name))
        return _move_by_hand(client, name, "rollback", to, reason)


def history(params: Registry) -> dict[str, Any]:
    """The ledger, as it stands; nothing is written.

    Returns:
        name, champion, entries (oldest first) and notes: what the ledger cannot explain.

    Raises:
        GraftError: there is no such model, or MLflow cannot be used.
    """
    with connected(params, "read the ledger") as client:
        model = registered_model(client, params.model_name)
    entries = ledger.read_ledger(model.tags)
    return {
        "name": params.model_name,
        "champion": champion_of(model),
        "entries": [entry.to_dict() for entry in entries],
        "notes": _notes(entries, champion_of(model)),
    }


def champion_of(model: RegisteredModel) -> str | None:
    """The champion's version."""
    number = model.aliases.get(CHAMPION)
    return None if number is None else str(number)


def move(client: MlflowClient, name: str, entry: Entry, expected: str | None) -> Entry | None:
    """Point `champion` to `entry.version`, if it still points to `expected`.

    A writer first appends its entry, then reads again, and goes on only if no other entry came since.
    Of two that race at least one reads after the other wrote, so never both go on; both may step back,
    and try again after a random pause.

    Args:
        entry: A draft.
        expected: The champion that the decision was made against; None for none.

    Returns:
        The entry, done; None where the version was champion already.

    Raises:
        Superseded: another version has become champion.
        GraftError: other writers never paused.
    """
    for _ in range(_ATTEMPTS):
        model = _when_quiet(client, name, entry.version)
        now = champion_of(model)
        if now == entry.version:
            return None
        if now != expected:
            raise _superseded(name, entry, expected, now)
        if claimed := _claim(client, name, entry, model, now):
            client.set_registered_model_alias(name, entry.alias, entry.version)
            return ledger.close(client, name, claimed, DONE)
        time.sleep(random.uniform(0.05, 0.6))
    raise GraftError(
        f"version {entry.version} of {name} was not promoted: others kept moving `{CHAMPION}`",
        f"look at `graft history --name {name}`, then try again",
    )


def _claim(
    client: MlflowClient, name: str, entry: Entry, model: RegisteredModel, before: str | None
) -> Entry | None:
    """Append the entry, as a move from `before`; None where it had to be withdrawn.

    Args:
        model: As it was when the entry was decided.
    """
    known = ledger.read_ledger(model.tags)
    start = time.monotonic()
    mine = ledger.write(client, name, entry, ledger.next_number(known), before)
    current = client.get_registered_model(name)
    others = {each.key for each in ledger.read_ledger(current.tags)} - {each.key for each in known}
    slow = time.monotonic() - start > LEASE / 2
    if others == {mine.key} and champion_of(current) == champion_of(model) and not slow:
        return mine
    ledger.close(client, name, mine, WITHDRAWN, "another move came at the same time")
    return None


def _when_quiet(client: MlflowClient, name: str, wanted: str) -> RegisteredModel:
    """The registered model once no move is under way and the ledger explains where the alias points.

    A process that died is told from a slow one by LEASE, measured here: clocks of two machines differ.
    """
    first_seen: dict[str, float] = {}
    while True:
        model = registered_model(client, name)
        open_entries = ledger.pending(ledger.read_ledger(model.tags))
        waiting = [each for each in open_entries if each.version != wanted and not _dead(each, first_seen)]
        # What is recorded takes time, in which another move may have begun: then all is read again.
        if not waiting and not _record_unseen(client, name, model):
            return model
        time.sleep(random.uniform(0.1, 0.5))


def _dead(entry: Entry, first_seen: dict[str, float]) -> bool:
    age = (datetime.now(timezone.utc) - datetime.fromisoformat(entry.when)).total_seconds()
    seen = time.monotonic() - first_seen.setdefault(entry.key, time.monotonic())
    return age > LONG_AGO or seen > LEASE


def _record_unseen(client: MlflowClient, name: str, model: RegisteredModel) -> bool:
    """Close what a dead process left open, and enter a move that was made past the ledger.

    Returns:
        Whether there was anything to record.
    """
    entries, now = ledger.read_ledger(model.tags), champion_of(model)
    cut_off = ledger.pending(entries)
    for each in cut_off:
        moved = each.version == now
        note = "the alias had been moved" if moved else "the alias had not been moved"
        print(
            f"{name}: an earlier {each.action} to version {each.version} was cut off; {note}", file=sys.stderr
        )
        ledger.close(client, name, each, DONE if moved else ABANDONED, f"cut off; {note}")
    model = registered_model(client, name) if cut_off else model
    before, now = ledger.last_known(ledger.read_ledger(model.tags)), champion_of(model)
    if now is None or now == before:
        return bool(cut_off)
    why = f"`{CHAMPION}` pointed to version {now} when the ledger was next written"
    found = ledger.draft(FOUND, CHAMPION, now, why=why, evidence={})
    if claimed := _claim(client, name, found, model, before):
        ledger.close(client, name, claimed, DONE, "moved by other means than graft")
    return True


def _move_by_hand(client: MlflowClient, name: str, action: str, number: str, reason: str) -> dict[str, Any]:
    chosen = version(client, name, number)
    before = champion_of(registered_model(client, name))
    number = str(chosen.version)
    if before != number and (problem := fetch(chosen)[1]):
        raise GraftError(
            f"version {number} of {name} cannot become champion: {problem}",
            f"restore its files in the artifact store, or choose another: `graft models --name {name}`",
        )
    evidence = {"run_id": chosen.run_id, "accuracy": chosen.tags.get("accuracy")}
    entry = ledger.draft(action, CHAMPION, number, why=reason, evidence=evidence)
    moved = move(client, name, entry, before)
    return {"name": name, "from": before, "to": number, "moved": moved is not None}


def _previous(model: RegisteredModel) -> str:
    turns = ledger.champions(ledger.read_ledger(model.tags))
    if len(turns) < 2:
        who = f"version {turns[0]} is the first champion" if turns else "there never was a champion"
        raise GraftError(
            f"{model.name} cannot be rolled back: {who}",
            f"name a version: `graft rollback --to VERSION`; `graft models --name {model.name}` lists them",
        )
    return turns[-2]


def _superseded(name: str, entry: Entry, expected: str | None, now: str | None) -> Superseded:
    against = "when there was no champion" if expected is None else f"against champion version {expected}"
    current = "there is none any more" if now is None else f"version {now} is champion now"
    return Superseded(
        f"version {entry.version} of {name} was not promoted: it was judged {against}, but {current}",
        "judge it against the present champion: run `graft retrain` again, which repeats the evaluation "
        "and takes the rest from the earlier run",
    )


def _notes(entries: list[Entry], now: str | None) -> list[str]:
    notes = [
        f"the {each.action} to version {each.version} of {each.when} is under way or was cut off; "
        f"`{CHAMPION}` {'points there' if each.version == now else 'does not point there'}"
        for each in ledger.pending(entries)
    ]
    explained = {ledger.last_known(entries), *(each.version for each in ledger.pending(entries))}
    if now not in explained:
        notes.append(f"`{CHAMPION}` was moved to {now} by other means than graft")
    return notes


def evidence_of(decision: Mapping[str, Any], run_id: str | None) -> tuple[str, dict[str, Any]]:
    """Why a gate's decision promotes, in words, and what an auditor looks up."""
    reasons = decision.get("reasons") or []
    words = "; ".join(reason["text"] for reason in reasons) or "the gate's decision"
    rules = {reason["rule"]: reason["passed"] for reason in reasons}
    against = (decision.get("champion") or {}).get("version")
    brief = {"winner": decision.get("winner"), "promote": decision["promote"], "champion": against}
    return words, {"run_id": run_id, "decision": {**brief, "rules": rules}}
