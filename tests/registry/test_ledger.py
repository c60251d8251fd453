"""The ledger: append-only, and read back as it was written."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.registry import ledger
from graft.registry.ledger import ABANDONED, DONE, WITHDRAWN


class Tags(dict[str, str]):
    """A registered model's tags, which complain when one is set twice."""

    def set_registered_model_tag(self, _: str, key: str, value: str) -> None:
        assert key not in self, "a ledger is only appended to"
        assert len(value) <= 5000, "MLflow's databases cut it"
        self[key] = value


def put(tags: Tags, action: str, version: str, outcome: str | None = DONE, **words: Any) -> None:
    entries = ledger.read_ledger(tags)
    drafted = ledger.draft(action, "champion", version, **{"why": "", "evidence": {}, **words})
    client: Any = tags
    entry = ledger.write(client, "m", drafted, ledger.next_number(entries), ledger.last_known(entries))
    if outcome:
        ledger.close(client, "m", entry, outcome)


text = st.text(max_size=4000)


@given(st.lists(st.tuples(text, st.dictionaries(st.sampled_from("ab"), text, max_size=2))))
def test_entries_come_back_in_order(written: list[tuple[str, dict[str, str]]]) -> None:
    tags = Tags({"owner": "someone"})
    for number, (why, evidence) in enumerate(written, 1):
        if len(json.dumps([why, evidence], ensure_ascii=False)) < 4000:
            put(tags, "promote", str(number), why=why, evidence=evidence)
        else:
            put(tags, "promote", str(number), why="long")
    entries = ledger.read_ledger(tags)
    assert [entry.version for entry in entries] == [str(n) for n in range(1, len(written) + 1)]
    assert [entry.before for entry in entries] == [None, *[e.version for e in entries]][: len(entries)]
    assert all(entry.outcome == DONE for entry in entries)


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from("123"), st.sampled_from([DONE, WITHDRAWN, ABANDONED, None]))
    )
)
def test_the_last_turn_is_where_the_alias_points(moves: list[tuple[bool, str, str | None]]) -> None:
    tags = Tags()
    for back, version, outcome in moves:
        put(tags, "rollback" if back else "promote", version, outcome)
    entries = ledger.read_ledger(tags)
    turns = ledger.champions(entries)
    assert turns[-1:] == [version for version in [ledger.last_known(entries)] if version]
    assert all(one != other for one, other in pairwise(turns))


def test_long_words_are_cut() -> None:
    tags = Tags()
    put(tags, "promote", "1", why="x" * 9000, evidence={"run_id": "y" * 9000})
    (entry,) = ledger.read_ledger(tags)
    assert entry.why.endswith(" ...")
    assert len(entry.why) == len(entry.evidence["run_id"]) == ledger.LONGEST


def test_what_a_rollback_left_behind_is_no_earlier_champion() -> None:
    tags = Tags()
    for action, version in [("promote", "1"), ("promote", "2"), ("promote", "3"), ("rollback", "2")]:
        put(tags, action, version)
    assert ledger.champions(ledger.read_ledger(tags)) == ["1", "2"]
    put(tags, "promote", "4")
    assert ledger.champions(ledger.read_ledger(tags)) == ["1", "2", "4"]


def test_an_open_entry_is_pending_and_counts_its_number() -> None:
    tags = Tags()
    put(tags, "promote", "1")
    put(tags, "promote", "2", None)
    entries = ledger.read_ledger(tags)
    assert [entry.version for entry in ledger.pending(entries)] == ["2"]
    assert ledger.last_known(entries) == "1"
    assert ledger.next_number(entries) == 3


def test_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.delenv("GRAFT_RUN", raising=False)
    assert ledger.actor() == "ada"
    assert ledger.actor("monday") == "run monday of ada"
    monkeypatch.setenv("GRAFT_RUN", "/runs/tuesday")
    assert ledger.actor() == "run tuesday of ada"
