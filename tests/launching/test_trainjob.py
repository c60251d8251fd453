"""A step in a pod starts a TrainJob: against a fake of the Kubernetes API and Trainer's own schema."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from graft.backbones.descriptions import skipped
from graft.errors import GraftError
from graft.launching import kubernetes, trainjob
from graft.launching.job import Job, read_job, tell_failure
from graft.launching.manifest import job_name, require_shared
from graft.launching.manifest import trainjob as manifest_of
from graft.params import Launch
from tests.launching.conftest import Step, weights
from tests.launching.kube_server import JOBS, Fault, Json, Kube, serving

TWO_NODES = {"kind": "trainjob", "nodes": 2}


def step_pod(home: Path, **volume: Any) -> Json:
    """A step's pod as Argo makes it, with one GPU and a claim for GRAFT_HOME."""
    return {
        "metadata": {
            "name": "retraining-x7-fine-tuning",
            "namespace": "team",
            "labels": {"pipelines.kubeflow.org/v2_component": "true"},
            "ownerReferences": [
                {
                    "apiVersion": "argoproj.io/v1alpha1",
                    "kind": "Workflow",
                    "name": "retraining-x7",
                    "uid": "1-2-3",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "serviceAccountName": "pipeline-runner",
            "nodeSelector": {"accelerator": "nvidia"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {"name": "wait", "image": "argoexec"},
                {
                    "name": "main",
                    "image": "graft@sha256:" + "0" * 64,
                    "env": [
                        {"name": "ARGO_TEMPLATE", "value": "{}"},
                        {"name": "KFP_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                        {"name": "GRAFT_HOME", "value": str(home)},
                        {
                            "name": "AWS_SECRET_ACCESS_KEY",
                            "valueFrom": {"secretKeyRef": {"name": "graft-s3", "key": "secret-key"}},
                        },
                    ],
                    "resources": {
                        "requests": {"cpu": "4", "memory": "16Gi"},
                        "limits": {"cpu": "8", "memory": "24Gi", "nvidia.com/gpu": "2"},
                    },
                    "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
                    "volumeMounts": [
                        {"name": "graft-home", "mountPath": str(home)},
                        {"name": "shm", "mountPath": "/dev/shm"},
                        {"name": "kube-api-access-q8", "mountPath": "/var/run/secrets", "readOnly": True},
                        {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                    ],
                },
            ],
            "volumes": [
                {"name": "graft-home", **(volume or {"persistentVolumeClaim": {"claimName": "graft-home"}})},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}},
                {"name": "kube-api-access-q8", "projected": {"sources": []}},
                {"name": "var-run-argo", "emptyDir": {}},
            ],
        },
        "status": {"phase": "Running"},
    }


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    """The API, with our own pod in it, and nothing that waits long."""
    with serving() as state:
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
            "clusters": [{"name": "c", "cluster": {"server": state.host}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("KFP_POD_NAME", "retraining-x7-fine-tuning")
        monkeypatch.setattr(trainjob, "POLL", 0.02)
        monkeypatch.setattr(kubernetes, "PAUSE", 0.01)
        state.pods["retraining-x7-fine-tuning"] = step_pod(tmp_path)
        yield state
        for training in state.training.values():
            training.join()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "images").write_text("pixels")
    outputs = {"fine_tuned": str(tmp_path / "out" / "fine_tuned")}
    work = tmp_path / "work" / "fine_tuning" / "abc"
    return Job("fine_tuning", {"epochs": 1}, {"images": str(tmp_path / "in")}, outputs, str(work))


def write_outputs(manifest: Json) -> None:
    """What training pods would leave: their own inputs, told from the step's by where they are."""
    given = read_job(Path(manifest["spec"]["trainer"]["command"][-1]))
    assert (Path(given.inputs["images"]) / "images").read_text() == "pixels"
    assert given.work in given.inputs["images"]
    Path(given.outputs["fine_tuned"]).mkdir(parents=True, exist_ok=True)
    (Path(given.outputs["fine_tuned"]) / "model").write_text("trained")


def run(job: Job) -> str:
    trainjob.by_trainjob(job, Launch(**TWO_NODES))
    return (Path(job.outputs["fine_tuned"]) / "model").read_text()


def as_trainer_starts_it(manifest: Json) -> None:
    """Run the pods' command for real, once for each node, with the environment of Trainer's torch plugin."""
    trainer = manifest["spec"]["trainer"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        subprocess.Popen(
            trainer["command"],
            env={
                **os.environ,
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": "1",  # here is no GPU
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
        )
        for node in range(trainer["numNodes"])
    ]
    assert [node.wait() for node in nodes] == [0, 0]


def test_two_nodes_train_with_the_command_of_the_job(kube: Kube, step: Step, tmp_path: Path) -> None:
    kube.train = as_trainer_starts_it
    step.run(tmp_path, TWO_NODES, epochs=1)
    assert len(weights(tmp_path)) > 10
    assert skipped(tmp_path / "scratch") == "fine_tuning.baseline is off"
    assert kube.deleted == [kube.created[0]["metadata"]["name"]]


def test_the_pods_of_the_job_are_like_the_steps_own(kube: Kube, job: Job, tmp_path: Path) -> None:
    kube.train = write_outputs
    assert run(job) == "trained"
    (made,) = kube.created
    own = step_pod(tmp_path)
    main, trainer = own["spec"]["containers"][1], made["spec"]["trainer"]
    assert trainer["image"] == main["image"]
    assert trainer["resourcesPerNode"] == main["resources"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 2)
    assert [one["name"] for one in trainer["env"]] == ["GRAFT_HOME", "AWS_SECRET_ACCESS_KEY"]
    (patch,) = made["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    for key in ("serviceAccountName", "nodeSelector", "tolerations", "securityContext"):
        assert pod[key] == own["spec"][key]
    assert [one["name"] for one in pod["volumes"]] == ["graft-home", "shm"]
    assert [one["name"] for one in pod["containers"][0]["volumeMounts"]] == ["graft-home", "shm"]
    assert pod["containers"][0]["securityContext"] == main["securityContext"]
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("Workflow", False)


def test_the_manifest_fits_trainers_schema(shared: Path, tmp_path: Path) -> None:
    text = (shared / "data" / "crds" / "trainjobs.yaml").read_text()
    definition = yaml.load(text, Loader=yaml.CSafeLoader)
    schema = jsonschema.Draft7Validator(
        closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    )
    made = manifest_of("graft-fine-tuning-0", step_pod(tmp_path), ["python"], Launch(**TWO_NODES))
    assert not [error.message for error in schema.iter_errors(made)]
    made["spec"]["trainer"]["numNode"] = 2
    (error,) = schema.iter_errors(made)
    assert "'numNode' was unexpected" in error.message


def closed(schema: Any) -> Any:
    """Kubernetes drops what a schema does not name; here it is an error, so that no typo passes."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "x-kubernetes-int-or-string" in schema:
        inner.pop("type", None)
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        inner["additionalProperties"] = False
    return inner


def test_the_name_follows_from_the_work_alone() -> None:
    one = job_name("fine_tuning", Path("/graft/work/fine_tuning/abc"))
    assert one == job_name("fine_tuning", Path("/graft/work/fine_tuning/abc"))
    assert one != job_name("fine_tuning", Path("/graft/work/fine_tuning/abd"))
    assert len(job_name("domain_adaptation_of_all", Path("/a"))) <= 40


def test_the_first_nodes_log_is_shown_once(kube: Kube, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    kube.train, kube.script = write_outputs, ("Pending", "Running", "Running", "Running", "Complete")
    name = job_name("fine_tuning", Path(job.work))
    kube.logs[f"{name}-node-0-0"] = [
        "2026-11-21T12:00:00.5Z epoch 1",
        "2026-11-21T12:00:00.51Z epoch 2",
        "2026-11-21T12:00:01.000000001Z epoch 3",
    ]
    kube.logs[f"{name}-node-0-1"] = ["2026-11-21T12:00:00Z quiet"]
    kube.faults.append(Fault("/log", status=0))
    run(job)
    said = capsys.readouterr().err
    assert [said.count(f"epoch {number}\n") for number in (1, 2, 3)] == [1, 1, 1]
    assert "quiet" not in said
    assert f"waiting for {name}-node-0-0: not scheduled yet" in said


@pytest.mark.parametrize(
    "fault",
    [
        Fault(f"POST {JOBS}", status=500, times=3),
        Fault(f"POST {JOBS}", status=0, heard=True),
        Fault(f"POST {JOBS}", status=500, heard=True),
        Fault(f"GET {JOBS}", status=503, times=5),
        Fault("GET .*/pods", status=0, times=3),
        Fault("DELETE", status=500, times=2),
        Fault("DELETE", status=0, heard=True),
    ],
    ids=lambda fault: f"{fault.match.split('/')[0]}{fault.status}{'heard' * fault.heard}",
)
def test_faults_that_pass_cost_nothing(kube: Kube, job: Job, fault: Fault) -> None:
    kube.train = write_outputs
    kube.faults.append(Fault(**vars(fault)))
    assert run(job) == "trained"
    assert len(kube.created) == len(kube.deleted) == 1
    assert not kube.jobs


@pytest.mark.parametrize(("status", "fix"), [(403, "verbs create, get"), (404, "install Kubeflow Trainer")])
def test_a_refusal_is_said_at_once(kube: Kube, job: Job, status: int, fix: str) -> None:
    kube.faults += [Fault(f"POST {JOBS}", status, times=99), Fault("DELETE", status=403, times=99)]
    with pytest.raises(GraftError, match=r"create the TrainJob .*injected") as refused:
        run(job)
    assert fix in refused.value.fix
    assert kube.requests.count(f"POST {JOBS}") == 1


def test_a_job_that_runs_already_is_joined(kube: Kube, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """As after the loss of the step's own pod."""
    kube.script = ("Running",)
    lost = threading.Thread(target=lambda: _until_killed(kube, job))
    lost.start()
    while not kube.jobs:
        time.sleep(0.01)
    (name,) = kube.jobs
    lost.join()
    assert kube.jobs
    kube.script, kube.train = ("Running", "Complete"), write_outputs
    assert run(job) == "trained"
    assert len(kube.created) == 1
    assert f"goes on with the TrainJob {name}" in capsys.readouterr().err
    assert kube.deleted == [name]


def _until_killed(kube: Kube, job: Job) -> None:
    """Begin, and vanish: a killed process deletes nothing."""
    cluster = kubernetes.connect()
    shared = trainjob._staged(job)
    name = job_name(job.step, Path(job.work))
    command = ["python", str(shared.folder / "job.json")]
    trainjob._begin(cluster, manifest_of(name, cluster.own_pod(), command, Launch(**TWO_NODES)), shared)


@pytest.mark.parametrize("ended", ["Failed", "Complete"])
def test_a_job_that_ended_without_outputs_is_run_again(kube: Kube, job: Job, ended: str) -> None:
    _until_killed(kube, job)
    (name,) = kube.jobs
    kube.jobs[name]["status"] = {"conditions": [{"type": ended, "status": "True"}]}
    kube.train = write_outputs
    assert run(job) == "trained"
    assert len(kube.created) == 2


def fail(kube: Kube, **status: Any) -> None:
    kube.script = ("Running", "Failed")
    kube.broken = lambda pods: pods[1]["status"].update(status)


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]}, "more memory than its"),
        ({"containerStatuses": [{"lastState": {"terminated": {"exitCode": 137}}}]}, "was killed by SIGKILL"),
        ({"reason": "Evicted", "message": "disk pressure"}, "Evicted: disk pressure"),
        ({}, "jobset said so"),
    ],
)
def test_a_failed_job_says_why_and_is_cleared_away(kube: Kube, job: Job, status: Json, problem: str) -> None:
    fail(kube, **status)
    with pytest.raises(GraftError, match=problem) as failed:
        run(job)
    assert "checkpoint" in failed.value.fix
    assert not kube.jobs


def test_a_process_says_itself_why_it_failed(
    kube: Kube, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(kube)
    name, whole = job_name("fine_tuning", Path(job.work)), kube.broken

    def broken(pods: list[Json]) -> None:
        whole(pods)
        tell_failure(job.folder, 3, GraftError("cat.jpg is broken", "remove it"))

    kube.broken = broken
    kube.logs[f"{name}-node-0-1"] = ["2026-11-21T12:00:00Z the last words"]
    with pytest.raises(GraftError, match=r"process 3: cat\.jpg is broken\n  fix: remove it"):
        run(job)
    assert f"{name}-node-0-1: the last words" in capsys.readouterr().err


def test_a_kill_inside_a_pod_is_found_in_torchruns_report(kube: Kube, job: Job) -> None:
    fail(kube)
    name = job_name("fine_tuning", Path(job.work))
    report = ("  rank      : 1 (local_rank: 0)", "  exitcode  : -9 (pid: 7) (SIGKILL)")
    kube.logs[f"{name}-node-0-1"] = [f"2026-11-21T12:00:00Z {line}" for line in report]
    with pytest.raises(GraftError, match="process 1 was killed by SIGKILL"):
        run(job)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_step_clears_its_job_away(kube: Kube, job: Job, how: signal.Signals) -> None:
    kube.script = ("Running",)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it

    def interrupt() -> None:
        while not kube.pods.get(f"{job_name('fine_tuning', Path(job.work))}-node-0-0"):
            time.sleep(0.01)
        os.kill(os.getpid(), how)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(job)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert not kube.jobs
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_job_that_somebody_deletes_is_no_success(kube: Kube, job: Job) -> None:
    kube.script = ("Running",)

    def delete() -> None:
        while not kube.jobs:
            time.sleep(0.01)
        kube.jobs.clear()

    threading.Thread(target=delete, daemon=True).start()
    with pytest.raises(GraftError, match="somebody deleted"):
        run(job)


@pytest.mark.parametrize(
    ("home", "volume", "problem"),
    [
        ("elsewhere", {}, "in the container"),
        (".", {"emptyDir": {}}, "on a volume of kind emptyDir"),
        (".", {"ephemeral": {}}, "on a volume of kind ephemeral"),
    ],
)
def test_storage_of_one_pod_alone_is_refused(tmp_path: Path, home: str, volume: Json, problem: str) -> None:
    pod = step_pod(tmp_path / home if home != "." else tmp_path, **volume)
    with pytest.raises(GraftError, match=problem) as refused:
        require_shared(pod, tmp_path / "work")
    assert "ReadWriteMany" in refused.value.fix


def test_outside_a_pod_it_says_what_to_use(
    job: Job, kube: Kube, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "laptop")
    with pytest.raises(GraftError, match="no pod 'laptop'"):
        run(job)
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(GraftError, match="no pod with a service account") as refused:
        run(job)
    assert "kind: torchrun" in refused.value.fix
