"""The layer over kfp's client, against a server that answers as the real one, and goes wrong on demand."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from graft.errors import GraftError
from pipelines.commands_cluster import submit
from pipelines.kubeflow import Server, connect, experiment_id, upload, version_name
from pipelines.kubeflow_runs import start_run, wait
from tests.pipelines.kfp_server import Fault, Kfp, serving

DATA = "dvc+s3://bucket/digits?md5=0123456789abcdef0123456789abcdef.dir"
IMAGE = f"registry.example.com/graft-python@sha256:{'1' * 64}"


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kfp]:
    monkeypatch.delenv("GRAFT_KFP_TOKEN", raising=False)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with serving() as state:
        yield state


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest pipeline that takes the data folder."""
    file = tmp_path_factory.mktemp("compiled") / "retraining.yaml"
    inputs = {"parameters": {"folder": {"parameterType": "STRING"}}}
    file.write_text(
        yaml.safe_dump({"pipelineInfo": {"name": "retraining"}, "root": {"inputDefinitions": inputs}})
    )
    return file


def reached(kfp: Kfp, **options: Any) -> Server:
    return connect(kfp.host, **{"timeout": 0.3, "pause": 0.001, **options})


def everything(server: Server, compiled: Path) -> str:
    version, experiment = upload(server, compiled), experiment_id(server, "graft")
    return start_run(server, version, experiment, "digits-1", {"folder": DATA})


def test_what_is_made_is_made_once_and_named_by_its_content(kfp: Kfp, compiled: Path, tmp_path: Path) -> None:
    server = reached(kfp)
    first = everything(server, compiled)
    assert everything(server, compiled) == first
    assert [version["display_name"] for version in kfp.versions.values()] == [version_name(compiled)]
    assert (len(kfp.pipelines), len(kfp.experiments), len(kfp.runs)) == (1, 1, 1)
    assert kfp.runs[first]["runtime_config"]["parameters"] == {"folder": DATA}

    other = tmp_path / "other.yaml"
    other.write_text(compiled.read_text() + "\n")
    assert upload(server, other) != upload(server, compiled)
    assert (len(kfp.pipelines), len(kfp.versions)) == (1, 2)


KINDS = (409, 500, 503, "before", "after", "slow")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_passes_leaves_no_double_wherever_it_strikes(
    kfp: Kfp, compiled: Path, kind: Any
) -> None:
    server = reached(kfp)
    for index in range(8):  # the requests of `everything` where nothing is there yet
        made = (kfp.pipelines, kfp.versions, kfp.experiments, kfp.runs)
        for table in made:
            table.clear()
        kfp.faults = [Fault(kind, skip=index)]
        everything(server, compiled)
        assert kfp.faults[0].times == 0, "the fault did not strike"
        assert [len(table) for table in made] == [1, 1, 1, 1], index


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_stumbles_at_first_is_reached(kfp: Kfp, kind: Any) -> None:
    kfp.faults = [Fault(kind), Fault(kind, skip=2)]
    assert reached(kfp).host == kfp.host
    assert kfp.faults[0].times == 0


def test_a_fault_that_stays_ends_in_an_error_that_names_it(kfp: Kfp, compiled: Path) -> None:
    server = reached(kfp)
    kfp.requests.clear()
    kfp.faults = [Fault(500, match="POST .*/experiments", times=99)]
    with pytest.raises(GraftError, match=r"could not find the experiment graft: .* answered 500: injected"):
        experiment_id(server, "graft")
    assert sum(request.startswith("POST") for request in kfp.requests) == 4


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "GRAFT_KFP_TOKEN"), (403, "--namespace"), (404, "/pipeline"), (400, "correct")]
)
def test_a_refusal_is_final_and_says_what_to_do(kfp: Kfp, compiled: Path, status: int, fix: str) -> None:
    server = reached(kfp)
    kfp.requests.clear()
    kfp.faults = [Fault(status, times=99)]
    with pytest.raises(GraftError, match=f"answered {status}") as raised:
        upload(server, compiled)
    assert fix in raised.value.fix
    assert len(kfp.requests) == 1


def test_an_invalid_pipeline_is_refused_with_the_servers_words(kfp: Kfp, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: 1\n")
    with pytest.raises(GraftError, match=r"could not upload .* unknown template format"):
        upload(reached(kfp), tmp_path / "p.yaml")


def test_no_server_a_web_page_and_a_shared_server_are_told_apart(kfp: Kfp) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>log in</html>")

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{page.server_port}"
        with pytest.raises(GraftError, match="answers with a page"):
            connect(address, pause=0.001)
        page.shutdown()
    with pytest.raises(GraftError, match=r"cannot be reached: .*[Rr]efused"):
        connect(address, pause=0.001)

    kfp.multi_user = True
    with pytest.raises(GraftError, match="--namespace is missing"):
        reached(kfp)
    assert experiment_id(reached(kfp, namespace="team"), "graft") in kfp.experiments


def test_the_token_is_sent_and_a_wrong_one_named(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.token = "secret"
    with pytest.raises(GraftError, match="answered 401"):
        reached(kfp)
    monkeypatch.setenv("GRAFT_KFP_TOKEN", "secret")
    assert reached(kfp).host == kfp.host


def test_a_service_accounts_token_is_read_anew_each_time(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kfp.token = "first"
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    server = reached(kfp)
    kfp.token = "second"
    (tmp_path / "token").write_text("second")
    assert experiment_id(server, "graft")


@pytest.mark.parametrize("last", ["SUCCEEDED", "FAILED", "CANCELED"])
def test_waiting_tells_of_each_step_once_and_ends_with_the_run(
    kfp: Kfp, compiled: Path, capsys: pytest.CaptureFixture[str], last: str
) -> None:
    kfp.script = ("PENDING", "RUNNING", "RUNNING", last)
    server = reached(kfp)
    run = everything(server, compiled)
    kfp.faults = [Fault(503, match=r"GET .*/runs/", skip=1), Fault("before", match=r"GET .*/runs/", skip=2)]
    assert wait(server, run, every=0.001) == last
    lines = [line.removeprefix("▸ ") for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "data_validation: succeeded after 90 s"
    assert len(lines) == len(set(lines))
    assert all("driver" not in line and "root" not in line for line in lines)
    if last == "FAILED":
        assert lines[-1] == "evaluation: failed after 90 s: exit status 1"
    if last == "SUCCEEDED":
        assert lines[-1] == "evaluation: succeeded after 90 s"


Submit = Callable[..., Result]


@pytest.fixture
def graft_submit(kfp: Kfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFT_GIT_COMMIT", "c0ffee")
    monkeypatch.setattr("pipelines.kubeflow_runs.time", SimpleNamespace(sleep=lambda seconds: None))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"cluster": {"image": IMAGE}}))

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(submit, ["--host", kfp.host, *arguments])
        assert result.exit_code == code, result.output
        return result

    return call


def test_submit_prints_where_the_run_is_and_gives_it_its_parameters(graft_submit: Submit, kfp: Kfp) -> None:
    printed = graft_submit("--data", DATA, "--set", "fine_tuning.epochs=3").stdout.strip()
    (run,) = kfp.runs.values()
    assert printed == f"{kfp.host}/#/runs/details/{run['run_id']}"
    given = run["runtime_config"]["parameters"]
    assert given["folder"] == DATA
    assert given["fine_tuning"]["epochs"] == 3
    assert given["lineage"]["git_commit"] == "c0ffee"
    assert "cluster" not in given
    (experiment,) = kfp.experiments.values()
    assert experiment["display_name"] == "graft"


def test_a_commit_alone_makes_no_new_version(
    graft_submit: Submit, kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    graft_submit("--data", DATA)
    monkeypatch.setenv("GRAFT_GIT_COMMIT", "decade")
    graft_submit("--data", DATA)
    assert len(kfp.versions) == 1
    commits = [run["runtime_config"]["parameters"]["lineage"]["git_commit"] for run in kfp.runs.values()]
    assert commits == ["c0ffee", "decade"]


def test_another_process_names_the_same_pipeline_alike(graft_submit: Submit, kfp: Kfp) -> None:
    """kfp writes defaults into comments, in an order that differs between processes."""
    graft_submit("--data", DATA)
    graft = Path(sys.executable).with_name("graft")
    arguments = [graft, "submit", "--host", kfp.host, "--data", DATA]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (len(kfp.versions), len(kfp.runs)) == (1, 2)


def test_submit_waits_and_leaves_with_the_runs_outcome(graft_submit: Submit, kfp: Kfp) -> None:
    assert graft_submit("--data", DATA, "--wait").stdout.splitlines()[-1] == "succeeded"
    kfp.script = ("RUNNING", "FAILED")
    result = graft_submit("--data", DATA, "--wait", code=1)
    assert result.stdout.splitlines()[-1] == "failed"
    assert "evaluation: failed after 90 s: exit status 1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--data", "images"), "which the pods do not see"),
        (("--data", "s3://"), "no address on S3"),
        (("--data", DATA, "--image", "graft-python:1.0"), "named by a tag"),
        (("--data", DATA, "--host", "kubeflow"), "does not begin with http"),
    ],
)
def test_what_would_fail_on_the_cluster_fails_here(
    graft_submit: Submit, kfp: Kfp, arguments: tuple[str, ...], problem: str
) -> None:
    error = graft_submit(*arguments, code=1).exception
    assert isinstance(error, GraftError)
    assert problem in error.problem
    assert not kfp.runs
