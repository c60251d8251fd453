"""schedules.yaml: reading it, and planning how a server comes to be as it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.params import read_params
from pipelines.schedule_plans import Action, Existing, Wanted, changes, plan, read_mark
from pipelines.schedules import read_schedules
from tests.pipelines.schedule_examples import DATA, IMAGE, wanted_of

ROOT = Path(__file__).resolve().parent.parent.parent
fresh = count()


def write(folder: Path, *schedules: dict[str, Any], **top: Any) -> Path:
    rows = [{"name": "weekly", "cron": "0 3 * * 1", "data": DATA, **each} for each in schedules]
    (folder / "schedules.yaml").write_text(yaml.safe_dump({"project": "digits", "schedules": rows, **top}))
    return folder / "schedules.yaml"


JOBS = {"image": IMAGE, "claim": "monitor"}


@pytest.mark.parametrize(
    ("row", "top", "message"),
    [
        ({"crn": "0 3 * * 1"}, {}, r"unknown key 'schedules.0.crn'\n  fix: did you mean 'cron'\?"),
        ({}, {"projekt": 1}, r"unknown key 'projekt'\n  fix: did you mean 'project'\?"),
        ({"cron": "0 25 * * 1"}, {}, "'25': the hour lies in 0 to 23"),
        ({"interval_seconds": 60}, {}, "weekly: needs cron or interval_seconds, one of them"),
        ({"cron": None}, {}, "weekly: needs cron or interval_seconds"),
        ({"max_concurrency": 11}, {}, "max_concurrency = 11"),
        ({"name": "Weekly!"}, {}, "schedules.0.name = 'Weekly!'"),
        ({"time_zone": "Europe/Atlantis"}, {}, "no such time zone"),
        (
            {"time_zone": "Europe/Berlin"},
            {},
            "scheduler is in UTC, not in Europe/Berlin\n  fix: add cron_jobs",
        ),
        ({"only_when": "data_changed"}, {}, "needs a CronJob: only_when: data_changed is decided before"),
        ({"only_when": "drifted", "catch_up": True}, {"cron_jobs": JOBS}, "catch_up is unknown to CronJobs"),
        ({"only_when": "drifted"}, {"cron_jobs": {"image": IMAGE}}, "drifted needs monitor.json"),
        ({"only_when": "drifted", "cron": "9 0 3 * * 1"}, {"cron_jobs": JOBS}, "its seconds are '9'"),
        ({"start": "2026-01-05"}, {}, "schedules.0.start"),
        (
            {"start": "2026-01-05T00:00:00Z", "end": "2026-01-05T00:00:00+01:00"},
            {},
            r"end = .* is not after start",
        ),
        ({"cron": None, "interval_seconds": 9, "time_zone": "UTC"}, {}, "time_zone says nothing about"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    tmp_path: Path, row: dict[str, Any], top: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraftError, match=message):
        read_schedules(write(tmp_path, row, **top))


def test_a_missing_broken_or_doubled_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="there is no file"):
        read_schedules(tmp_path / "none.yaml")
    with pytest.raises(GraftError, match="two schedules are called 'weekly'"):
        read_schedules(write(tmp_path, {}, {}))
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(GraftError, match="is not valid YAML"):
        read_schedules(tmp_path / "broken.yaml")


def test_the_recipe_is_valid_and_weekly() -> None:
    (one,) = read_schedules(ROOT / "recipes" / "schedules" / "weekly.yaml").recurring()
    assert one.cron == "0 0 3 * * 1"
    for file in one.params:
        read_params([ROOT / file], one.overrides)


def test_who_keeps_a_schedule_follows_from_zone_and_condition(tmp_path: Path) -> None:
    rows = [
        {"name": "plain"},
        {"name": "same-zone", "time_zone": "Europe/Berlin"},
        {"name": "other-zone", "time_zone": "Asia/Tokyo"},
        {"name": "changed", "only_when": "data_changed"},
    ]
    file = read_schedules(write(tmp_path, *rows, server_time_zone="Europe/Berlin", cron_jobs=JOBS))
    assert [one.name for one in file.recurring()] == ["plain", "same-zone"]
    assert [one.name for one in file.cron_jobbed()] == ["other-zone", "changed"]


def as_existing(one: Wanted, run_id: str) -> Existing:
    return Existing(run_id, one.schedule.name, one.digest, one.schedule.enabled, one.fields)


def small_steps(state: Sequence[Existing], actions: Sequence[Action]) -> Iterator[list[Existing]]:
    """The server after each single request that the actions lead to."""
    now = list(state)
    for action in changes(actions):
        if action.wanted is not None:
            now = [*now, as_existing(action.wanted, f"new-{next(fresh)}")]
            yield now
        if action.kind in ("enable", "disable"):
            on = action.kind == "enable"
            now = [replace(each, enabled=on) if each.run_id == action.run_id else each for each in now]
            yield now
        if action.kind in ("replace", "retire"):
            now = [replace(each, enabled=False) if each.run_id == action.run_id else each for each in now]
            yield now
            now = [each for each in now if each.run_id != action.run_id]
            yield now


NAMES = ("daily", "nightly", "weekly")
wanted_sets = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.integers(1, 3), st.booleans())).map(
    lambda chosen: [wanted_of(name, epochs=epochs, enabled=on) for name, (epochs, on) in chosen.items()]
)
states = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 3), st.booleans()), max_size=7).map(
    lambda rows: [
        as_existing(wanted_of(name, epochs=epochs, enabled=on), str(number))
        for number, (name, epochs, on) in enumerate(rows)
    ]
)


def running(state: Sequence[Existing]) -> set[str]:
    return {each.name for each in state if each.enabled}


@given(wanted_sets, states, st.data())
def test_from_any_state_and_after_any_interruption_the_file_is_reached(
    wanted: list[Wanted], state: list[Existing], data: st.DataObject
) -> None:
    must_run = {one.schedule.name for one in wanted if one.schedule.enabled}
    steps = list(small_steps(state, plan(wanted, state)))
    stopped = data.draw(st.integers(0, len(steps)))
    before = running(state) & must_run
    for step in steps[:stopped]:
        assert before <= running(step)
        before = running(step) & must_run
    middle = steps[stopped - 1] if stopped else state

    end = [*small_steps(middle, plan(wanted, middle))]
    for step in end:
        assert before <= running(step)
        before = running(step) & must_run
    final = end[-1] if end else middle
    assert sorted((each.name, each.digest, each.enabled) for each in final) == sorted(
        (one.schedule.name, one.digest, one.schedule.enabled) for one in wanted
    )
    assert not changes(plan(wanted, final))


def test_a_plan_names_each_field_that_changed() -> None:
    old, new = wanted_of("weekly"), wanted_of("weekly", epochs=5)
    later = replace(new, schedule=new.schedule.model_copy(update={"cron": "0 0 4 * * 1", "catch_up": True}))
    (action,) = plan([later], [as_existing(old, "7")])
    assert (action.kind, action.run_id) == ("replace", "7")
    assert action.reasons == (
        "catch_up: false → true",
        "cron: 0 0 3 * * 1 → 0 0 4 * * 1",
        "params.fine_tuning.epochs: 1 → 5",
    )


def test_switching_on_and_off_needs_no_new_one() -> None:
    on, off = wanted_of("weekly"), wanted_of("weekly", enabled=False)
    assert [action.kind for action in plan([off], [as_existing(on, "7")])] == ["disable"]
    assert [action.kind for action in plan([on], [as_existing(off, "7")])] == ["enable"]


def test_a_commit_alone_changes_nothing() -> None:
    old = wanted_of("weekly")
    new = replace(old, parameters={**old.parameters, "lineage": {"git_commit": "decade"}})
    assert [action.kind for action in plan([new], [as_existing(old, "7")])] == ["keep"]


@pytest.mark.parametrize("description", [None, "", "weekly", "graft-schedule digits/weekly sha256:12"])
def test_what_bears_no_mark_of_ours_is_not_ours(description: str | None) -> None:
    assert read_mark(description, "digits") is None
    assert read_mark(wanted_of("weekly").description, "letters") is None
    name, digest, noted = read_mark(wanted_of("weekly").description, "digits") or ("", "", {})
    assert (name, digest) == ("weekly", wanted_of("weekly").digest)
    assert noted == {"experiment": "graft", "pipeline": "sha256-1"}
