"""Weights from every origin, and every way in which they can be wrong."""

from __future__ import annotations

import functools
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graft.backbones import origins
from graft.backbones.catalogue import published
from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import Trunk, build, load_backbone, save_backbone
from graft.backbones.weights import prepare
from graft.errors import GraftError
from graft.files import sha256_file
from graft.params import Backbone


def full_state(name: str = "resnet20", seed: int = 5) -> dict[str, torch.Tensor]:
    """A state dict as a training program would leave it: trunk and head."""
    trunk, config = build(name, seed=seed)
    head = {"linear.weight": torch.ones(10, config.num_features), "linear.bias": torch.zeros(10)}
    return {**trunk.network.state_dict(), **head}


def assert_same(trunk: Trunk, state: dict[str, torch.Tensor]) -> None:
    own = trunk.network.state_dict()
    assert own
    assert all(torch.equal(value, state[name]) for name, value in own.items())


def failure(**values: object) -> GraftError:
    with pytest.raises(GraftError) as error:
        prepare(Backbone(**{"name": "resnet20", **values}))  # type: ignore[arg-type]
    return error.value


@pytest.mark.parametrize("weights", ["random", "pretrain"])
def test_random_weights_follow_the_seed(weights: str) -> None:
    trunk, config = prepare(Backbone(name="resnet20", weights=weights, seed=3))
    assert_same(trunk, dict(build("resnet20", seed=3)[0].network.state_dict()))
    assert (config.weights, config.sha256) == (weights, None)


@pytest.mark.parametrize("form", ["plain", "module", "state_dict", "compiled", "safetensors", "uncounted"])
def test_a_file_gives_its_weights_and_its_hash(form: str, tmp_path: Path) -> None:
    state = full_state()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        content = {
            "plain": state,
            "module": {f"module.{name}": value for name, value in state.items()},
            "state_dict": {"epoch": 3, "state_dict": state},
            "compiled": {"model": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
            "uncounted": {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
        }[form]
        torch.save(content, path)
    digest = sha256_file(path)
    trunk, config = prepare(Backbone(name="resnet20", weights=str(path), sha256=digest[:8]))
    assert_same(trunk, state)
    assert (config.weights, config.sha256) == (str(path), digest)
    assert trunk.training


def test_a_classifier_that_graft_saved_is_a_weights_file(tmp_path: Path) -> None:
    trunk, config = build("digits_cnn", seed=4)
    model = Classifier(trunk, nn.Linear(128, 2), config=config, classes=("a", "b"))
    save_classifier(model, tmp_path, method="probe")
    weights = str(tmp_path / "weights.safetensors")
    assert_same(prepare(Backbone(name="digits_cnn", weights=weights))[0], dict(trunk.network.state_dict()))


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    trunk, _ = build("densenet121", seed=1)
    state = dict(trunk.network.state_dict())
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v for name, v in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "d.pth")
    assert_same(prepare(Backbone(name="densenet121", weights=str(tmp_path / "d.pth")))[0], state)


def test_a_file_known_by_its_hash_brings_its_own_preprocessing() -> None:
    from graft.backbones.catalogue import preprocessing_of_file

    second = origins.hash_in_name(published("mobilenet_v2")["IMAGENET1K_V2"].url)
    assert second
    known, unknown = (preprocessing_of_file("mobilenet_v2", sha) for sha in (second + "0" * 56, "0" * 64))
    assert known is not None
    assert unknown is not None
    assert (known.resize_size, unknown.resize_size) == (232, 256)


@pytest.mark.photos
def test_published_mobilenet_loads_and_is_reproducible(shared: Path, tmp_path: Path) -> None:
    file = str(shared / "weights" / "mobilenet_v2-imagenet-qnnpack-dequant.pth")
    trunk, config = prepare(Backbone(name="mobilenet_v2", weights=file, sha256="d7fcb937"))
    save_backbone(trunk, config, tmp_path)
    loaded, read = load_backbone(tmp_path)
    assert read == config
    assert read.sha256 is not None
    assert read.sha256.startswith("d7fcb937")
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images), trunk.eval()(images))


# --- files that are wrong


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    torch.save({**build("resnet20")[0].network.state_dict()}, tmp_path / "w.pth")
    error = failure(name="digits_cnn", weights=str(tmp_path / "w.pth"))
    assert "does not fit digits_cnn" in error.problem
    assert "block1.0.weight is missing" in error.problem
    assert "looks like resnet20" in error.fix


@pytest.mark.photos
def test_published_weights_of_another_architecture_are_recognised(shared: Path) -> None:
    file = str(shared / "weights" / "resnet20-12fca82f.pth")
    error = failure(name="squeezenet1_1", weights=file)
    assert "looks like resnet20" in error.fix


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer3.2.conv9.weight": torch.zeros(2)}, "layer3.2.conv9.weight is unknown"),
        (
            {"conv1.weight": torch.zeros(16, 1, 3, 3)},
            "conv1.weight has shape (16, 1, 3, 3), not (16, 3, 3, 3)",
        ),
        ({"bn1.running_var": None}, "bn1.running_var is missing"),
    ],
)
def test_one_wrong_tensor_is_enough(
    change: dict[str, torch.Tensor | None], named: str, tmp_path: Path
) -> None:
    state = {name: value for name, value in {**full_state(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "w.pth")
    assert named in failure(weights=str(tmp_path / "w.pth")).problem


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_wrong_hash_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    save_file(full_state(), path) if suffix == "safetensors" else torch.save(full_state(), path)
    error = failure(weights=str(path), sha256="0123456789abcdef")
    assert sha256_file(path)[:12] in error.problem
    assert "backbone.sha256" in error.fix


def test_pickled_code_is_refused_and_never_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "created"),)

    for name, write in {
        "torch.pth": lambda path: torch.save({"conv1.weight": Malicious()}, path),
        "legacy.pt": lambda path: torch.save(
            {"conv1.weight": Malicious()}, path, _use_new_zipfile_serialization=False
        ),
        "plain.pth": lambda path: path.write_bytes(pickle.dumps(Malicious())),
    }.items():
        write(tmp_path / name)
        error = failure(weights=str(tmp_path / name))
        assert "nothing else in it is run" in error.problem
        assert "state_dict()" in error.fix
    assert not (tmp_path / "created").exists()
    pickle.loads(pickle.dumps(Malicious()))  # the trap works
    assert (tmp_path / "created").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", ["half", "empty", "text"])
def test_a_broken_file_is_refused(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(full_state(), path) if name.endswith("safetensors") else torch.save(full_state(), path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404</html>"}[content])
    error = failure(weights=str(path))
    assert str(path) in error.problem
    assert "fetch it again" in error.fix


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, {"state_dict": {"a": "b"}}, torch.zeros(3)])
def test_a_file_without_tensors_by_name_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "holds no state dict" in failure(weights=str(tmp_path / "w.pth")).problem


@pytest.mark.parametrize(
    ("values", "problem", "fix"),
    [
        ({"weights": "nowhere/w.pth"}, "nowhere/w.pth does not exist", "path"),
        ({"weights": "w.pth"}, "w.pth does not exist", "path"),
        ({"weights": "DEFAULT"}, "published weights of resnet20", "a file"),
        ({"name": "resnet18", "weights": "IMAGENET1K_V7"}, "IMAGENET1K_V7", "IMAGENET1K_V1"),
        ({"name": "timm/resnet18", "weights": "a9_in1k"}, "a9_in1k", "a1_in1k"),
        ({"weights": "random", "sha256": "01234567"}, "nothing to check", "remove backbone.sha256"),
        ({"weights": "s3://bucket"}, "s3://bucket", "s3://bucket/key"),
    ],
)
def test_weights_that_do_not_exist(values: dict[str, str], problem: str, fix: str) -> None:
    error = failure(**values)
    assert problem in error.problem
    assert fix in error.fix


# --- torchvision's and timm's servers


def test_without_a_network_the_fix_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    error = failure(name="squeezenet1_1", weights="DEFAULT")
    assert "cannot be fetched" in error.problem
    assert "s3://" in error.fix
    assert not list(tmp_path.rglob("*.pth"))


def test_without_a_network_timm_s_fix_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    error = failure(name="timm/mobilenetv3_small_050", weights="DEFAULT")
    assert "timm cannot fetch" in error.problem
    assert "s3://" in error.fix


def test_timm_s_own_weights_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the Hugging Face cache, laid out as a download leaves it."""
    import huggingface_hub.constants
    import timm

    torch.manual_seed(8)
    published = timm.create_model("mobilenetv3_small_050", num_classes=1000)
    cache = tmp_path / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    (cache / "snapshots" / ("a" * 40)).mkdir(parents=True)
    save_file(published.state_dict(), cache / "snapshots" / ("a" * 40) / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name, weights in (
        ("mobilenetv3_small_050", "DEFAULT"),
        ("mobilenetv3_small_050", "lamb_in1k"),
        ("mobilenetv3_small_050.lamb_in1k", "DEFAULT"),
    ):
        trunk, config = prepare(Backbone(name=f"timm/{name}", weights=weights))
        assert_same(trunk, published.state_dict())
        assert config.name == f"timm/{name}"
        assert config.weights == weights


def test_a_half_cached_download_is_not_taken_for_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    member = published("squeezenet1_1")["DEFAULT"]
    cached = tmp_path / "hub" / "checkpoints" / member.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half")
    error = failure(name="squeezenet1_1", weights="DEFAULT")
    assert "not whole" in error.problem
    assert f"delete {cached}" in error.fix


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()


def test_published_weights_are_fetched_once_and_checked(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    address, folder = web
    torch.save(full_state(), folder / "w.pth")
    name = f"w-{sha256_file(folder / 'w.pth')[:8]}.pth"
    (folder / "w.pth").rename(folder / name)
    path = origins.torchvision_file(_Published(f"{address}/{name}"))
    (folder / name).unlink()
    assert origins.torchvision_file(_Published(f"{address}/{name}")) == path
    (folder / "w-00000000.pth").write_bytes(path.read_bytes())
    with pytest.raises(GraftError, match="cannot be fetched"):
        origins.torchvision_file(_Published(f"{address}/w-00000000.pth"))


class _Published:
    """What a torchvision weights enum's member tells of its file."""

    def __init__(self, url: str) -> None:
        self.url = url


# --- S3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A bucket named "models"; the path is of the file that it holds as resnet/w.pth."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    torch.save(full_state(), tmp_path / "w.pth")
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    client.upload_file(str(tmp_path / "w.pth"), "models", "resnet/w.pth")
    return tmp_path / "w.pth"


def test_weights_come_from_s3(bucket: Path) -> None:
    digest = sha256_file(bucket)
    weights = "s3://models/resnet/w.pth"
    trunk, config = prepare(Backbone(name="resnet20", weights=weights, sha256=digest))
    assert_same(trunk, full_state())
    assert (config.weights, config.sha256) == (weights, digest)


def test_s3_answers_that_are_no_weights(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sha256" in failure(weights="s3://models/resnet/w.pth", sha256="00000000").problem
    missing = failure(weights="s3://models/resnet/v.pth")
    assert "s3://models/resnet/v.pth cannot be fetched" in missing.problem
    assert "check bucket and key" in missing.fix
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    assert "AWS_ENDPOINT_URL" in failure(weights="s3://models/resnet/w.pth").fix


# --- MLflow


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Trunk]:
    """A registry with "digits" version 1 (alias champion), and "other", which graft did not make."""
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
    experiment = client.create_experiment("e", artifact_location=(folder / "artifacts").as_uri())
    run = client.create_run(experiment)
    trunk, config = build("digits_cnn", seed=9)
    config = replace(config, preprocessing=replace(config.preprocessing, resize_size=40))
    model = Classifier(trunk, nn.Linear(128, 2), config=config, classes=("a", "b"))
    save_classifier(model, folder / "model", method="probe")
    client.log_artifacts(run.info.run_id, str(folder / "model"), "model/artifacts/classifier")
    client.log_text(run.info.run_id, "nothing", "other/readme.txt")
    for name, path in (("digits", "model"), ("other", "other")):
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/{path}", run.info.run_id)
    client.set_registered_model_alias("digits", "champion", "1")
    return address, trunk


@pytest.fixture
def registry(registered: tuple[str, Trunk]) -> Iterator[Trunk]:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registered[0])
    yield registered[1]
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("version", ["@champion", "/1"])
def test_weights_come_from_a_registered_model(registry: Trunk, version: str) -> None:
    trunk, config = prepare(Backbone(name="digits_cnn", weights=f"models:/digits{version}"))
    assert_same(trunk, dict(registry.network.state_dict()))
    assert trunk.training
    assert config.preprocessing.resize_size == 40  # the model's own, not the architecture's
    assert config.weights == f"models:/digits{version}"
    assert config.sha256


@pytest.mark.parametrize(
    ("values", "problem", "fix"),
    [
        ({"weights": "models:/digits@champion"}, "is a digits_cnn", "set backbone.name to digits_cnn"),
        ({"weights": "models:/digits@nobody"}, "models:/digits@nobody cannot be fetched", "alias"),
        ({"weights": "models:/nothing/1"}, "models:/nothing/1 cannot be fetched", "MLFLOW_TRACKING_URI"),
        ({"weights": "models:/other/1"}, "holds no model.json", "a model that graft registered"),
        ({"weights": "models:/digits/1", "sha256": "00000000"}, "but backbone.sha256 is", "backbone.sha256"),
    ],
)
def test_a_registered_model_that_does_not_fit(
    registry: Trunk, values: dict[str, str], problem: str, fix: str
) -> None:
    error = failure(**values)
    assert problem in error.problem
    assert fix in error.fix


def test_an_unreachable_mlflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")  # nobody listens there
    try:
        error = failure(weights="models:/digits@champion")
    finally:
        mlflow.set_tracking_uri(before)
    assert "http://127.0.0.1:9" in error.problem
    assert "MLFLOW_TRACKING_URI" in error.fix
