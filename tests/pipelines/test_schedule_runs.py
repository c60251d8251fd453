"""Bringing a server's recurring runs to what schedules.yaml says, through faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result

from graft.errors import GraftError
from pipelines.commands_cluster import schedule, submit
from pipelines.kubeflow import Server, connect
from pipelines.schedule_plans import Action, Wanted, changes, plan
from pipelines.schedule_runs import apply, list_existing
from pipelines.schedules import Schedule
from tests.pipelines.kfp_server import Fault, Kfp, serving
from tests.pipelines.schedule_examples import DATA, IMAGE, wanted_of


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kfp]:
    monkeypatch.delenv("GRAFT_KFP_TOKEN", raising=False)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with serving() as state:
        yield state


@pytest.fixture
def server(kfp: Kfp) -> Server:
    return connect(kfp.host, timeout=0.3, pause=0.001)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest pipeline that takes what `wanted_of` gives."""
    names = {"folder": "STRING", "fine_tuning": "STRUCT", "lineage": "STRUCT"}
    inputs = {"parameters": {name: {"parameterType": kind} for name, kind in names.items()}}
    root = {"inputDefinitions": inputs}
    file = tmp_path_factory.mktemp("compiled") / "retraining.yaml"
    file.write_text(yaml.safe_dump({"pipelineInfo": {"name": "retraining"}, "root": root}))
    return file


def bring(server: Server, wanted: Sequence[Wanted]) -> list[Action]:
    actions = plan(wanted, list_existing(server, "digits"))
    apply(server, actions)
    return changes(actions)


def there(kfp: Kfp) -> list[tuple[str, int, bool]]:
    return sorted(
        (
            run["display_name"],
            run["runtime_config"]["parameters"]["fine_tuning"]["epochs"],
            run["mode"] == "ENABLE",
        )
        for run in kfp.recurring.values()
    )


def never_without(kfp: Kfp, name: str) -> bool:
    """Whether there was an enabled one after every change."""
    return all(
        any(run["display_name"] == name and run["status"] == "ENABLED" for run in moment)
        for moment in kfp.history
    )


def test_apply_makes_replaces_and_retires_and_then_has_nothing_to_do(
    server: Server, kfp: Kfp, pipeline: Path
) -> None:
    first = [wanted_of("daily", package=pipeline), wanted_of("weekly", package=pipeline)]
    assert [action.kind for action in bring(server, first)] == ["create", "create"]
    (run,) = [run for run in kfp.recurring.values() if run["display_name"] == "weekly"]
    assert run["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (run["max_concurrency"], run["no_catchup"]) == ("1", True)
    assert bring(server, first) == []

    second = [wanted_of("weekly", epochs=2, package=pipeline)]
    done = bring(server, second)
    assert [(action.kind, action.name) for action in done] == [("replace", "weekly"), ("retire", "daily")]
    assert done[0].reasons == ("params.fine_tuning.epochs: 1 → 2",)
    assert there(kfp) == [("weekly", 2, True)]
    ended = [run["deleted_with"] for moment in kfp.history for run in moment if "deleted_with" in run]
    assert set(ended) == {"ORPHAN"}  # else the server kills the runs in progress
    assert bring(server, second) == []


def test_what_is_read_back_is_what_was_wanted(server: Server, kfp: Kfp, pipeline: Path) -> None:
    often = Schedule.model_validate(
        {
            "name": "often",
            "interval_seconds": 3600,
            "start": "2026-01-05T03:00:00+01:00",
            "end": "2027-01-05T03:00:00Z",
            "catch_up": True,
            "max_concurrency": 3,
            "enabled": False,
            "experiment": "mine",
            "data": DATA,
        }
    )
    for one in (
        replace(wanted_of("x", package=pipeline), schedule=often),
        wanted_of("y", package=pipeline),
    ):
        apply(server, [Action("create", one.schedule.name, (), wanted=one)])
        found = [each for each in list_existing(server, "digits") if each.name == one.schedule.name]
        assert [dict(each.fields) for each in found] == [one.fields]
        assert [(each.digest, each.enabled) for each in found] == [(one.digest, one.schedule.enabled)]


@pytest.mark.parametrize("kind", [403, 409, 500, "before", "after", "slow"])
def test_a_fault_at_any_request_and_another_apply_reach_the_file(
    server: Server, kfp: Kfp, pipeline: Path, kind: Any
) -> None:
    old = wanted_of("weekly", package=pipeline)
    new = [wanted_of("weekly", epochs=2, package=pipeline), wanted_of("daily", package=pipeline)]
    bring(server, [old])
    kfp.requests.clear()
    bring(server, new)
    requests = len(kfp.requests)
    assert requests > 12
    for index in range(requests):
        kfp.faults = []
        kfp.recurring.clear()
        bring(server, [old])
        kfp.history.clear()
        kfp.remember()
        kfp.faults = [Fault(kind, skip=index)]
        with pytest.raises(GraftError) if kind == 403 else nullcontext():  # a refusal is final
            bring(server, new)
        assert kfp.faults[0].times == 0, "the fault did not strike"
        bring(server, new)
        assert there(kfp) == [("daily", 1, True), ("weekly", 2, True)], index
        assert never_without(kfp, "weekly"), index
        assert bring(server, new) == []


def test_recurring_runs_of_others_are_never_touched(server: Server, kfp: Kfp, pipeline: Path) -> None:
    ours = wanted_of("weekly", package=pipeline)
    theirs = replace(ours, project="letters")
    bring(server, [ours])
    apply(server, [Action("create", "weekly", (), wanted=theirs)])
    (mark,) = [run for run in kfp.recurring.values() if "digits/weekly" in run["description"]]
    for number in range(130):  # by hand, and more than one page of them
        kfp.recurring[f"hand-{number}"] = {
            **mark,
            "recurring_run_id": f"hand-{number}",
            "description": "hers",
        }
    kfp.recurring[mark["recurring_run_id"]] = kfp.recurring.pop(mark["recurring_run_id"])  # ours comes last
    before = {key for key in kfp.recurring if key != mark["recurring_run_id"]}
    assert [action.kind for action in bring(server, [])] == ["retire"]
    assert set(kfp.recurring) == before


# The commands


Run = Callable[..., Result]


@pytest.fixture
def run(kfp: Kfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("pipelines.kubeflow.time", SimpleNamespace(sleep=lambda seconds: None))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"cluster": {"image": IMAGE}}))

    def call(command: str, *more: str, code: int = 0) -> Result:
        result = CliRunner().invoke(schedule, [command, "--host", kfp.host, *more])
        assert result.exit_code == code, result.output
        return result

    return call


def write(*schedules: dict[str, Any], **top: Any) -> None:
    rows = [{"name": "weekly", "cron": "0 3 * * 1", "data": DATA, **each} for each in schedules]
    Path("schedules.yaml").write_text(yaml.safe_dump({"project": "digits", "schedules": rows, **top}))


def test_the_tour_plan_apply_change_fault_apply(run: Run, kfp: Kfp) -> None:
    write({}, {"name": "daily", "cron": None, "interval_seconds": 86400})
    table = run("plan").stdout
    assert [table.count(word) for word in ("Schedules of digits", "create", "is not there yet")] == [1, 2, 2]
    assert not kfp.recurring
    assert run("apply").stdout.endswith("done: 2 changes\n")

    write({"cron": "0 4 * * 1", "overrides": ["fine_tuning.epochs=7"]})
    kfp.history.clear()
    lines = run("diff", code=2).stdout.splitlines()
    assert lines[:2] == ["weekly: replace", "  cron: 0 0 3 * * 1 → 0 0 4 * * 1"]
    assert lines[2] == "  params.fine_tuning.epochs: not set → 7"
    assert lines[3].startswith("  pipeline: sha256-")
    assert lines[4:] == ["daily: retire", "  is not in the file any more"]

    kfp.faults = [Fault("after", match="POST .*/recurringruns$"), Fault(403, match=":disable")]
    error = run("apply", code=1).exception
    assert isinstance(error, GraftError)
    assert "could not disable the recurring run" in error.problem
    crons = [one["trigger"].get("cron_schedule", {}).get("cron") for one in kfp.recurring.values()]
    assert crons == ["0 0 3 * * 1", None, "0 0 4 * * 1"]  # the new one is there, once; the old one still

    table = run("plan").stdout
    assert "keep" in table
    assert "is an older form of it" in table
    run("apply")
    assert [one["trigger"] for one in kfp.recurring.values()] == [{"cron_schedule": {"cron": "0 0 4 * * 1"}}]
    assert run("diff").stdout == "no differences\n"
    assert never_without(kfp, "weekly")


def test_a_tag_is_refused_unless_allowed(run: Run) -> None:
    write({})
    Path("params.yaml").write_text("cluster: {image: graft-python:1.0}")
    error = run("plan", code=1).exception
    assert isinstance(error, GraftError)
    assert "named by a tag" in error.problem
    run("plan", "--allow-tag")


def test_what_kubeflow_cannot_keep_is_rendered_as_cron_jobs(run: Run, kfp: Kfp) -> None:
    rows = [
        {"name": "changed", "only_when": "data_changed", "overrides": ["fine_tuning.epochs=7"]},
        {"name": "drifted", "only_when": "drifted", "time_zone": "Europe/Berlin", "enabled": False},
    ]
    write({}, *rows, cron_jobs={"image": IMAGE, "environment": ["mlflow"], "claim": "monitor"})
    table = run("plan").stdout
    assert "changed: a CronJob" in table
    assert "create" in table

    documents = list(yaml.safe_load_all(run("render", "--namespace", "team").stdout))
    for document in documents:
        kubernetes_validate.validate(document, "1.30", strict=True)
    kinds = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert kinds == [
        ("ConfigMap", "digits-changed"),
        ("CronJob", "digits-changed"),
        ("ConfigMap", "digits-drifted"),
        ("CronJob", "digits-drifted"),
    ]
    params, changed, _, drifted = documents
    assert yaml.safe_load(params["data"]["params.yaml"])["fine_tuning"]["epochs"] == 7
    assert (changed["spec"]["schedule"], changed["spec"]["timeZone"]) == ("0 3 * * 1", "UTC")
    assert (drifted["spec"]["timeZone"], drifted["spec"]["suspend"]) == ("Europe/Berlin", True)
    for document, words in ((changed, "data-changed"), (drifted, "drifted --monitor /monitor/monitor.json")):
        pod = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        name, *arguments = container["command"]
        assert name == "graft"
        assert " ".join(arguments).endswith(f"--wait --only-when {words}")
        assert submit.make_context("submit", arguments[1:]).params["host"] == kfp.host
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["volumes"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False


def test_nothing_is_rendered_where_kubeflow_keeps_them_all(run: Run) -> None:
    write({})
    assert run("render", "--namespace", "team").stdout == ""
