"""`graft roll`: an InferenceService follows an alias."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from graft.errors import GraftError
from graft.registry.tracking import reach
from pipelines import rolling
from pipelines.commands_rolling import roll as command
from pipelines.rolling import Cluster, Target, in_store, patch, roll, this_cluster
from tests.pipelines.kubernetes_server import Kubernetes, merged, running

PLACE = ("graft", "champion")
BUCKET = "s3://artifacts/mlflow"
Roll = Callable[..., Result]


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    with running() as state:
        state.add(*PLACE)
        yield state


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions: two behind MLflow's proxy, one on somebody's disk."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client = reach(f"sqlite:///{file}")
    client.create_registered_model("digits")
    for source in ("mlflow-artifacts:/1/models/m-a/artifacts", "mlflow-artifacts:/1/models/m-b/artifacts",
                   "/home/ada/model"):  # fmt: skip
        client.create_model_version("digits", source)
    return file


@pytest.fixture
def registry(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copyfile(tables, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_ARTIFACTS_DESTINATION", raising=False)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def graft_roll(kubernetes: Kubernetes, registry: MlflowClient) -> Roll:
    def call(*more: str) -> Result:
        arguments = ["--model", "digits", "--api", kubernetes.url, "--artifacts", BUCKET, *more]
        return CliRunner().invoke(command, arguments, catch_exceptions=False)

    return call


def served(kubernetes: Kubernetes) -> tuple[str, str]:
    service = kubernetes.services[PLACE]
    return service["metadata"]["annotations"][rolling.VERSION], service["spec"]["predictor"]["model"][
        "storageUri"
    ]


def test_it_follows_promotions_and_rollbacks(
    graft_roll: Roll, kubernetes: Kubernetes, registry: MlflowClient
) -> None:
    for version, folder in (("1", "m-a"), ("2", "m-b"), ("1", "m-a")):
        registry.set_registered_model_alias("digits", "champion", version)
        done = graft_roll()
        assert done.exit_code == 0
        assert f"-> {version}, {BUCKET}/1/models/{folder}/artifacts" in done.output
        assert served(kubernetes) == (version, f"{BUCKET}/1/models/{folder}/artifacts")
    service = kubernetes.services[PLACE]
    assert service["spec"]["predictor"]["minReplicas"] == 1  # what is not ours stays
    assert service["spec"]["predictor"]["model"]["runtime"] == "graft"


def test_nothing_is_written_when_it_stands_right(
    graft_roll: Roll, kubernetes: Kubernetes, registry: MlflowClient
) -> None:
    registry.set_registered_model_alias("digits", "champion", "2")
    graft_roll()
    kubernetes.requests.clear()
    before = copy.deepcopy(kubernetes.services)
    assert "serves version 2 of digits already" in graft_roll().output
    assert [method for method, _ in kubernetes.requests] == ["GET"]
    assert kubernetes.services == before


def test_an_address_changed_by_hand_is_put_right(
    graft_roll: Roll, kubernetes: Kubernetes, registry: MlflowClient
) -> None:
    registry.set_registered_model_alias("digits", "champion", "1")
    graft_roll()
    kubernetes.services[PLACE]["spec"]["predictor"]["model"]["storageUri"] = "s3://elsewhere/model"
    assert "version 1 -> 1" in graft_roll().output
    assert served(kubernetes) == ("1", f"{BUCKET}/1/models/m-a/artifacts")


def test_another_alias_service_and_namespace(
    graft_roll: Roll, kubernetes: Kubernetes, registry: MlflowClient
) -> None:
    kubernetes.add("trial", "next")
    registry.set_registered_model_alias("digits", "challenger", "2")
    graft_roll("--alias", "challenger", "--inference-service", "next", "--namespace", "trial")
    assert kubernetes.services["trial", "next"]["metadata"]["annotations"][rolling.VERSION] == "2"
    assert "annotations" not in kubernetes.services[PLACE]["metadata"]


def test_without_a_champion_what_serves_goes_on(
    graft_roll: Roll, kubernetes: Kubernetes, registry: MlflowClient
) -> None:
    with pytest.raises(GraftError, match="digits has no alias 'champion'"):
        graft_roll()
    assert kubernetes.requests == []


def test_files_that_kserve_cannot_fetch(
    graft_roll: Roll, kubernetes: Kubernetes, registry: MlflowClient
) -> None:
    registry.set_registered_model_alias("digits", "champion", "3")
    with pytest.raises(GraftError, match=r"/home/ada/model, where KServe cannot fetch"):
        graft_roll()
    registry.set_registered_model_alias("digits", "champion", "1")
    with pytest.raises(GraftError, match="behind MLflow's proxy") as caught:
        graft_roll("--artifacts", "/mlartifacts")
    assert "--artifacts-destination" in caught.value.fix
    assert kubernetes.requests == []


WANTED = Target("digits", "2", "s3://bucket/m")


def test_a_write_at_the_same_time_is_read_before_ours(kubernetes: Kubernetes) -> None:
    def other() -> None:
        kubernetes.before_patch = lambda: None
        kubernetes.services[PLACE]["spec"]["predictor"]["minReplicas"] = 4
        kubernetes.touch(*PLACE)

    kubernetes.before_patch = other
    assert roll(Cluster(kubernetes.url), *PLACE, WANTED)["moved"]
    assert [method for method, _ in kubernetes.requests] == ["GET", "PATCH", "GET", "PATCH"]
    assert kubernetes.services[PLACE]["spec"]["predictor"]["minReplicas"] == 4
    assert served(kubernetes) == ("2", "s3://bucket/m")


def test_others_who_never_stop_writing(kubernetes: Kubernetes) -> None:
    kubernetes.before_patch = lambda: kubernetes.touch(*PLACE)
    with pytest.raises(GraftError, match="graft/champion was changed by others"):
        roll(Cluster(kubernetes.url), *PLACE, WANTED)


def test_what_another_roll_has_done_meanwhile_is_not_done_again(kubernetes: Kubernetes) -> None:
    def other() -> None:
        kubernetes.before_patch = lambda: None
        roll(Cluster(kubernetes.url), *PLACE, WANTED)

    kubernetes.before_patch = other
    assert not roll(Cluster(kubernetes.url), *PLACE, WANTED)["moved"]
    assert served(kubernetes) == ("2", "s3://bucket/m")


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_a_role_that_is_missing(kubernetes: Kubernetes, method: str) -> None:
    kubernetes.forbidden = {method}
    with pytest.raises(
        GraftError, match=rf"{method} graft/champion with 403: .* cannot {method.lower()}"
    ) as caught:
        roll(Cluster(kubernetes.url), *PLACE, WANTED)
    assert "Role" in caught.value.fix


def test_no_such_service(kubernetes: Kubernetes) -> None:
    with pytest.raises(GraftError, match="with 404") as caught:
        roll(Cluster(kubernetes.url), "graft", "other", WANTED)
    assert "kubectl -n graft get inferenceservices" in caught.value.fix


def test_no_answer() -> None:
    with pytest.raises(GraftError, match="does not answer") as caught:
        roll(Cluster("http://127.0.0.1:9"), *PLACE, WANTED)
    assert "network policy" in caught.value.fix


def test_the_accounts_token_is_read_anew(kubernetes: Kubernetes, tmp_path: Path) -> None:
    kubernetes.token = "first"
    (tmp_path / "token").write_text("first\n")
    cluster = Cluster(kubernetes.url, tmp_path)
    assert roll(cluster, *PLACE, WANTED)["moved"]
    kubernetes.token = "second"
    with pytest.raises(GraftError, match="with 401"):
        roll(cluster, *PLACE, WANTED)
    (tmp_path / "token").write_text("second\n")
    assert not roll(cluster, *PLACE, WANTED)["moved"]


def test_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(GraftError, match="not a pod") as caught:
        this_cluster()
    assert "kubectl proxy" in caught.value.fix
    (tmp_path / "token").write_text("t")
    assert this_cluster() == Cluster("https://10.0.0.1:443", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert this_cluster().url == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    ("stored", "artifacts", "expected"),
    [
        ("s3://direct/a", None, "s3://direct/a"),
        ("mlflow-artifacts:/1/a", "s3://bucket", "s3://bucket/1/a"),
        ("mlflow-artifacts:/1/a/", "s3://bucket/mlflow/", "s3://bucket/mlflow/1/a"),
        ("mlflow-artifacts://mlflow:5000/1/a", "s3://bucket", "s3://bucket/1/a"),
    ],
)
def test_in_store(stored: str, artifacts: str | None, expected: str) -> None:
    assert in_store(stored, artifacts) == expected


TEXT = st.text("abc123", min_size=1, max_size=4)
SERVICES = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"resourceVersion": TEXT},
            optional={
                "annotations": st.dictionaries(st.sampled_from([rolling.MODEL, rolling.VERSION, "x"]), TEXT)
            },
        ),
        "spec": st.fixed_dictionaries(
            {"predictor": st.fixed_dictionaries({}, optional={"model": st.dictionaries(TEXT, TEXT)})}
        ),
    }
)


@given(SERVICES, st.builds(Target, TEXT, TEXT, TEXT))
def test_a_patch_once_applied_is_enough(service: dict, wanted: Target) -> None:
    before = copy.deepcopy(service)
    change = patch(service, wanted)
    assert service == before
    if change is None:
        return
    after = merged(service, change)
    assert patch(after, wanted) is None
    assert set(service["metadata"].get("annotations", {})) <= set(after["metadata"]["annotations"])
