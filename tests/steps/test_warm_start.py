"""Where fine-tuning begins, with a real registry; and steps that params.yaml turns off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier, load_classifier, save_classifier
from graft.backbones.descriptions import read_model_json, skipped
from graft.backbones.trunk import build, save_backbone
from graft.errors import GraftError
from graft.files import read_json
from graft.images.augmentation import write_policy
from graft.images.table import ImageTable
from graft.images.validation import validate
from graft.methods.hyperrule import plan
from graft.params import Augmentation, Data, FineTuning, Registry, read_params
from graft.registry.registration import register
from graft.steps import domain_adaptation, fine_tuning
from graft.steps.running import key_parts, reuse_key
from graft.steps.warm_start import begin, settings_of

CHAMPION = FineTuning(init="champion")
GAIN = [{"rule": "gain", "passed": True, "text": "better"}]
LINEAGE = {
    "data_md5": "a" * 32,
    "git_commit": "c0ffee",
    "params_sha256": "b" * 64,
    "params": {"backbone": {"seed": 0}},
    "step_seconds": {"backbone": 2},
}


def saved(folder: Path, classes: tuple[str, ...], seed: int = 0, name: str = "digits_cnn") -> Path:
    trunk, config = build(name, seed=seed)
    torch.manual_seed(seed)
    model = Classifier(trunk, nn.Linear(config.num_features, len(classes)), config=config, classes=classes)
    save_classifier(model, folder, method="all")
    return folder


def registered(folder: Path, registry: dict[str, Any], classes: tuple[str, ...], **model: Any) -> None:
    decision = {"winner": "probe", "promote": True, "reasons": GAIN, "champion": None}
    winner = saved(folder, classes, **model)
    register(winner, decision, Registry(**registry), lineage=LINEAGE, metrics={"accuracy.probe": 0.9})


@pytest.fixture(scope="module")
def registry(table: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The section; its champion, the first version, knows the table's classes."""
    folder = tmp_path_factory.mktemp("registry")
    section = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "model_name": "shapes"}
    registered(folder / "winner", section, table.classes, seed=5)
    return section


@pytest.fixture
def probe(table: ImageTable, tmp_path: Path) -> Path:
    return saved(tmp_path / "probe", table.classes)


def begins(registry: dict[str, Any], probe: Path, work: Path) -> Path:
    settings = settings_of({"init": "champion"}, registry)
    return begin(settings["champion"], CHAMPION, settings["registry"], probe, work)


def test_the_champion_is_named_by_its_version(registry: dict[str, Any]) -> None:
    assert settings_of({"init": "champion"}, registry)["champion"] == "models:/shapes/1"


def test_the_registry_matters_to_the_key_only_where_it_is_asked(registry: dict[str, Any]) -> None:
    def key(section: dict[str, Any], registry: dict[str, Any]) -> str:
        return reuse_key(key_parts("fine_tuning", settings_of(section, registry), {}))

    nobody = {**registry, "model_name": "nobody"}
    assert key({}, registry) == key({}, nobody)
    assert key({"init": "champion"}, registry) != key({"init": "champion"}, nobody)


def test_it_begins_at_the_champion(registry: dict[str, Any], probe: Path, tmp_path: Path) -> None:
    folder = begins(registry, probe, tmp_path / "work")
    theirs, ours = load_classifier(folder), load_classifier(probe)
    assert not torch.equal(theirs.head.weight, ours.head.weight)
    # What arrived is whole, so a step that is killed and started again asks the registry for nothing.
    assert begin("models:/shapes/1", CHAMPION, {}, probe, tmp_path / "work") == folder


@pytest.mark.parametrize(
    ("classes", "name", "reason"),
    [
        (("ant", "bee"), "digits_cnn", "knows the classes ant, bee"),
        (None, "resnet20", "is another network, resnet20"),
    ],
)
def test_a_champion_of_another_task_or_network_is_left_alone(
    table: ImageTable,
    probe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: tuple[str, ...] | None,
    name: str,
    reason: str,
) -> None:
    section = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "model_name": "shapes"}
    registered(tmp_path / "winner", section, classes or table.classes, name=name)
    assert begins(section, probe, tmp_path / "work") == probe
    assert reason in "".join(capsys.readouterr())


def test_a_champion_that_is_not_whole_is_left_alone(
    table: ImageTable, probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "model_name": "shapes"}
    registered(tmp_path / "winner", section, table.classes)
    for weights in tmp_path.rglob("weights.safetensors"):
        if not weights.is_relative_to(tmp_path / "winner") and not weights.is_relative_to(probe):
            weights.unlink()
    assert begins(section, probe, tmp_path / "work") == probe
    assert "cannot be used: the artifact store has no weights.safetensors" in "".join(capsys.readouterr())


def test_without_a_champion_it_begins_at_the_probe(probe: Path, tmp_path: Path) -> None:
    section = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "model_name": "shapes"}
    assert begins(section, probe, tmp_path / "work") == probe
    assert not (tmp_path / "mlflow.db").exists()


def test_a_warm_start_takes_a_third_of_the_epochs_and_none_of_the_head_alone() -> None:
    cold = plan(FineTuning(), input_size=32, images=400)
    warm = plan(CHAMPION, input_size=32, images=400)
    assert (warm.epochs, warm.head_epochs) == (-(-cold.epochs // 3), 0)
    assert plan(FineTuning(init="champion", epochs=9), input_size=32, images=400).epochs == 9


@pytest.mark.parametrize("method", ["hybrid", "combine", "scratch"])
def test_methods_that_build_a_new_network_refuse_the_champion(method: str) -> None:
    with pytest.raises(GraftError, match=f"method {method} builds a new network"):
        read_params([], [f"fine_tuning.method={method}", "fine_tuning.init=champion"])


@pytest.fixture
def inputs(table: ImageTable, probe: Path, tmp_path: Path) -> dict[str, Path]:
    save_backbone(*build("digits_cnn", seed=0), tmp_path / "network")
    (tmp_path / "views").mkdir()
    write_policy(Augmentation(), tmp_path / "views")
    return {
        "images": table.path,
        "views": tmp_path / "views",
        "network": tmp_path / "network",
        "probe": probe,
    }


def run(inputs: dict[str, Path], place: Path, registry: dict[str, Any], **section: Any) -> dict[str, Any]:
    fine_tuning.run(
        **settings_of({"baseline": False, "seed": 1, **section}, registry),
        **inputs,
        fine_tuned=place / "fine_tuned",
        scratch=place / "scratch",
        work=place / "work",
    )
    return read_model_json(place / "fine_tuned")


def test_the_model_says_what_it_began_at(
    registry: dict[str, Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "warm"
    assert (
        run(inputs, place, registry, init="champion", method="all", epochs=1)["began"] == "models:/shapes/1"
    )
    assert len(read_json(place / "fine_tuned" / "history.json")) == 1
    assert "began" not in run(inputs, tmp_path / "cold", registry, method="all", epochs=1)


def test_what_is_turned_off_says_so(inputs: dict[str, Path], two_domains: Path, tmp_path: Path) -> None:
    validate(two_domains / "source", Data(), tmp_path / "one domain", tmp_path / "docs")
    run(inputs, tmp_path, {}, method="none")
    assert skipped(tmp_path / "fine_tuned") == skipped(tmp_path / "scratch") == "fine_tuning.method is none"
    for section, images, reason in (
        ({}, tmp_path / "one domain", "one domain: there is nothing to adapt to"),
        ({"method": "none"}, inputs["images"], "domain_adaptation.method is none"),
    ):
        domain_adaptation.run(
            domain_adaptation=section,
            images=images,
            views=inputs["views"],
            probe=inputs["probe"],
            fine_tuned=tmp_path / "fine_tuned",
            adapted=tmp_path / "adapted",
            work=tmp_path / "work",
        )
        assert skipped(tmp_path / "adapted") == reason


@pytest.mark.parametrize("tuned", [False, True])
def test_adaptation_begins_at_the_probe_where_nothing_was_fine_tuned(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], tuned: bool
) -> None:
    """One that trains nothing keeps the weights of whatever it began at."""
    run(inputs, tmp_path, {}, method="all" if tuned else "none", epochs=1)
    domain_adaptation.run(
        domain_adaptation={"method": "coral", "choice": "last", "target_epochs": 0},
        images=inputs["images"],
        views=inputs["views"],
        probe=inputs["probe"],
        fine_tuned=tmp_path / "fine_tuned",
        adapted=tmp_path / "adapted",
        work=tmp_path / "work",
    )
    assert ("from the probe, since fine_tuning.method is none" in "".join(capsys.readouterr())) != tuned
    begun, made = (
        load_classifier(place).trunk.state_dict()
        for place in (tmp_path / "fine_tuned" if tuned else inputs["probe"], tmp_path / "adapted")
    )
    assert all(torch.equal(made[name], weights) for name, weights in begun.items())
