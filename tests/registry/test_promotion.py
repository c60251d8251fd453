"""Moving the champion: by hand, back, against each other, and cut off in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from graft.errors import GraftError
from graft.params import Registry
from graft.registry import ledger, promotion, registration
from graft.registry.promotion import history, promote, rollback

Enter = Callable[..., dict[str, Any]]
Candidate = Callable[..., Path]
LINEAGE = {"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64}


@pytest.fixture
def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri)


@pytest.fixture
def three(enter: Enter, candidate: Candidate) -> None:
    """Versions 1, 2 and 3; 1 is champion."""
    for seed in range(3):
        enter(candidate(seed=seed), promote=seed == 0)


def champion(client: MlflowClient) -> str | None:
    return promotion.champion_of(client.get_registered_model("insects"))


def moves(registry: Registry) -> list[tuple[str, str | None, str, str | None]]:
    return [(e["action"], e["from"], e["to"], e["outcome"]) for e in history(registry)["entries"]]


def decided(winner: Path, registry: Registry, against: str | None) -> dict[str, Any]:
    verdict = {"version": against, "problem": None} if against else None
    reasons = [{"rule": "gain", "passed": True, "text": "+2 points"}]
    decision = {"winner": "probe", "promote": True, "reasons": reasons, "champion": verdict}
    return registration.register(winner, decision, registry, lineage=LINEAGE, metrics={})


@pytest.mark.usefixtures("three")
def test_promote_rollback_and_the_ledger(registry: Registry, client: MlflowClient) -> None:
    assert promote(registry, "2", "better on ants") == {
        "name": "insects",
        "from": "1",
        "to": "2",
        "moved": True,
    }
    promote(registry, "3")
    assert not promote(registry, "3")["moved"]
    assert rollback(registry, "bees are missed")["to"] == "2"
    assert champion(client) == "2"
    assert rollback(registry, "ants too")["to"] == "1"  # and not to 3 again
    assert rollback(registry, "no, 3 was right", to="3")["from"] == "1"
    assert moves(registry) == [
        ("register", None, "1", "done"),
        ("promote", "1", "2", "done"),
        ("promote", "2", "3", "done"),
        ("rollback", "3", "2", "done"),
        ("rollback", "2", "1", "done"),
        ("rollback", "1", "3", "done"),
    ]
    found = history(registry)
    assert (found["champion"], found["notes"]) == ("3", [])
    assert found["entries"][1]["why"] == "better on ants"
    assert found["entries"][1]["evidence"]["run_id"] == client.get_model_version("insects", "2").run_id


def test_registering_enters_the_decision(registry: Registry, candidate: Candidate) -> None:
    result = decided(candidate(), registry, None)
    (entry,) = history(registry)["entries"]
    assert entry["why"] == "+2 points"
    assert entry["evidence"]["run_id"] == result["run_id"]
    assert entry["evidence"]["decision"]["rules"] == {"gain": True}
    assert decided(candidate(), registry, None)["champion"]  # repeated: nothing is moved or entered
    assert len(history(registry)["entries"]) == 1


@pytest.mark.usefixtures("three")
def test_nothing_to_go_back_to(registry: Registry) -> None:
    with pytest.raises(GraftError, match="version 1 is the first champion") as caught:
        rollback(registry, "regret")
    assert "--to VERSION" in caught.value.fix


def test_no_champion_ever(registry: Registry, enter: Enter, candidate: Candidate) -> None:
    enter(candidate(), promote=False)
    with pytest.raises(GraftError, match="never was a champion"):
        rollback(registry, "regret")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("number", ["9", "two"])
def test_a_version_that_does_not_exist(registry: Registry, number: str) -> None:
    with pytest.raises(GraftError, match=f"no version '{number}'") as caught:
        promote(registry, number)
    assert "there are: 3, 2, 1" in caught.value.fix


def test_a_model_that_does_not_exist(registry: Registry) -> None:
    for act in (lambda: promote(registry, "1"), lambda: history(registry), lambda: rollback(registry, "x")):
        with pytest.raises(GraftError, match="no registered model 'insects'") as caught:
            act()
        assert "--name" in caught.value.fix


def test_a_version_without_its_files_does_not_become_champion(
    registry: Registry, enter: Enter, candidate: Candidate, client: MlflowClient, tmp_path: Path
) -> None:
    enter(candidate(seed=0))
    enter(candidate(seed=1))
    oldest = min(
        (tmp_path / "mlartifacts").rglob("weights.safetensors"), key=lambda file: file.stat().st_mtime
    )
    oldest.write_bytes(oldest.read_bytes()[:-4])
    with pytest.raises(GraftError, match="weights are not those") as caught:
        rollback(registry, "regret")
    assert "restore its files" in caught.value.fix
    assert champion(client) == "2"


def test_a_decision_against_a_former_champion_is_superseded(
    registry: Registry, candidate: Candidate, client: MlflowClient
) -> None:
    decided(candidate(seed=0), registry, None)
    decided(candidate(seed=1), registry, "1")
    late = decided(candidate(seed=2), registry, "1")
    assert (late["champion"], late["aliases"]) == (False, ["challenger"])
    assert "judged against champion version 1, but version 2 is champion now" in late["superseded"]["reason"]
    assert "graft retrain" in late["superseded"]["fix"]
    assert champion(client) == "2"
    again = decided(candidate(seed=2), registry, "2")
    assert (again["champion"], again["superseded"], again["reused"]) == (True, None, True)


def test_a_first_model_that_is_not_the_first_any_more(registry: Registry, candidate: Candidate) -> None:
    decided(candidate(seed=0), registry, None)
    late = decided(candidate(seed=1), registry, None)
    assert "when there was no champion, but version 1" in late["superseded"]["reason"]


def race(registry: Registry, numbers: list[str]) -> list[str]:
    """Promote all at once; those that won, or the message of those that did not."""
    gate, outcomes = threading.Barrier(len(numbers)), []

    def attempt(number: str) -> None:
        client = MlflowClient(registry.tracking_uri)
        entry = promotion.ledger.draft("promote", "champion", number, why="race", evidence={})
        gate.wait()
        try:
            promotion.move(client, "insects", entry, "1")
            outcomes.append(f"won {number}")
        except GraftError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes)


@pytest.mark.usefixtures("three")
def test_two_race_and_one_wins(registry: Registry, client: MlflowClient) -> None:
    for _ in range(3):
        outcomes = race(registry, ["2", "3"])
        assert outcomes[0] == "Superseded"
        assert outcomes[1] == f"won {champion(client)}"
        client.set_registered_model_alias("insects", "champion", "1")
    done = [entry for entry in history(registry)["entries"] if entry["outcome"] == "done"]
    assert len({entry["number"] for entry in done}) == len(done)  # of one number, one at most is done


@pytest.mark.usefixtures("three")
def test_who_writes_at_the_same_moment_steps_back(
    registry: Registry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's entry comes between this one's look and its own entry."""
    write, raced = promotion.ledger.write, []

    def after_another(*arguments: Any) -> Any:
        if not raced:
            raced.append(True)
            promote(registry, "3", "the faster one")
        return write(*arguments)

    monkeypatch.setattr(promotion.ledger, "write", after_another)
    with pytest.raises(promotion.Superseded, match="version 3 is champion now"):
        promote(registry, "2")
    assert champion(client) == "3"
    assert ("promote", "1", "2", "withdrawn") in moves(registry)


@pytest.mark.usefixtures("three")
def test_a_move_under_way_is_waited_for(
    registry: Registry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "LEASE", 30.0)
    entry = promotion.ledger.draft("promote", "champion", "3", why="slow", evidence={})
    slow = promotion.ledger.write(client, "insects", entry, 2, "1")

    def finish() -> None:
        client.set_registered_model_alias("insects", "champion", "3")
        promotion.ledger.close(client, "insects", slow, "done")

    timer = threading.Timer(0.8, finish)
    timer.start()
    with pytest.raises(promotion.Superseded):
        promote(registry, "2")
    timer.join()
    assert champion(client) == "3"


def cut_off(
    registry: Registry, client: MlflowClient, number: str, patch: pytest.MonkeyPatch, after: bool
) -> None:
    """A promotion whose process dies just before, or just after, the alias moves."""
    whole = MlflowClient.set_registered_model_alias

    def die(self: MlflowClient, name: str, alias: str, version: str) -> None:
        if after:
            whole(self, name, alias, version)
        raise KeyboardInterrupt

    with patch.context() as inside:
        inside.setattr(MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            promote(registry, number)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("after", [False, True])
def test_a_promotion_cut_off_is_explained_by_the_next(
    registry: Registry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: Any, after: bool
) -> None:
    cut_off(registry, client, "2", monkeypatch, after)
    assert champion(client) == ("2" if after else "1")
    (note,) = history(registry)["notes"]
    assert "to version 2" in note
    assert "under way or was cut off" in note
    monkeypatch.setattr(promotion, "LEASE", 0.5)
    promote(registry, "3")
    assert "an earlier promote to version 2 was cut off" in capsys.readouterr().err
    assert moves(registry)[1:] == [
        ("promote", "1", "2", "done" if after else "abandoned"),
        ("promote", "2" if after else "1", "3", "done"),
    ]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("after", [False, True])
def test_a_promotion_cut_off_is_repeated_at_once(
    registry: Registry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    cut_off(registry, client, "2", monkeypatch, after)
    assert promote(registry, "2")["moved"] is not after
    assert champion(client) == "2"
    assert moves(registry)[1] == ("promote", "1", "2", "done" if after else "abandoned")
    assert history(registry)["notes"] == []


@pytest.mark.usefixtures("three")
def test_a_move_past_graft_is_noticed(registry: Registry, client: MlflowClient) -> None:
    client.set_registered_model_alias("insects", "champion", "3")
    assert history(registry)["notes"] == ["`champion` was moved to 3 by other means than graft"]
    promote(registry, "2")
    assert moves(registry)[1:] == [("found", "1", "3", "done"), ("promote", "3", "2", "done")]
    assert rollback(registry, "regret")["to"] == "3"


@pytest.mark.usefixtures("three")
def test_a_move_that_begins_while_another_is_recorded_is_waited_for(
    registry: Registry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the entry of a move past the ledger and our own, somebody else may have claimed the alias."""
    promote(registry, "2")
    client.set_registered_model_alias("insects", "champion", "1")  # past the ledger
    begun = []
    claim = promotion._claim

    def claim_and_be_overtaken(*arguments: Any) -> Any:
        claimed = claim(*arguments)
        if not begun:  # after the entry of what was found
            entry = ledger.draft("promote", "champion", "3", why="race", evidence={})
            begun.append(ledger.write(client, "insects", entry, 99, "1"))
        return claimed

    def go_on() -> None:
        client.set_registered_model_alias("insects", "champion", "3")
        ledger.close(client, "insects", begun[0], ledger.DONE)

    monkeypatch.setattr(promotion, "_claim", claim_and_be_overtaken)
    timer = threading.Timer(2.0, go_on)
    timer.start()
    ours = ledger.draft("promote", "champion", "2", why="race", evidence={})
    with pytest.raises(promotion.Superseded):
        promotion.move(client, "insects", ours, "1")
    timer.join()
    assert champion(client) == "3"
