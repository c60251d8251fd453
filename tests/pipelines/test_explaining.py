"""What `graft explain-cache` foretells, held against what a run then does."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.__main__ import STEPS
from graft.errors import GraftError
from graft.params import Params, read_params
from graft.steps.running import key_parts, reuse_key, run_step
from pipelines.chain import run_here, steps_to
from pipelines.cli import graft
from pipelines.explaining import Verdict, explain, settings_in, why_always

DEFAULTS = Params().sections()
WITHOUT_EFFECT = "batch_size"  # of the pretended steps below


class Place:
    """A checkout whose steps take no time: an output is the text of what it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.runs = folder, folder / "data", 0
        self.data.mkdir()
        (self.data / "a.txt").write_text("one")

    @property
    def latest(self) -> Path:
        return self.folder / "runs" / str(self.runs)

    def retrain(self, params: Params, image: str | None = None) -> dict[str, dict[str, Any]]:
        """Run all steps as the local runner would; their records by step."""
        self.runs += 1
        artifacts = self.latest / "artifacts"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GRAFT_HOME", str(self.folder / ".graft"))
            patch.setenv("GRAFT_RUN", str(self.latest))
            set_image(patch, image)
            for step in steps_to("registered"):
                values = settings_in(step, params)
                run_step(
                    step.name,
                    lambda: pretend,
                    settings=values,
                    inputs={
                        name: str(self.data if name == "folder" else artifacts / name) for name in step.inputs
                    },
                    outputs={name: str(artifacts / name) for name in step.outputs},
                    reusable=why_always(step.name, values) is None,
                )
        return {step: json.loads((self.latest / "steps" / f"{step}.json").read_text()) for step in STEPS}

    def explain(self, params: Params, image: str | None = None) -> dict[str, Verdict]:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("GRAFT_HOME", raising=False)
            set_image(patch, image)
            return {verdict.step: verdict for verdict in explain(self.latest, params, str(self.data))}


def set_image(patch: pytest.MonkeyPatch, image: str | None) -> None:
    if image is None:
        patch.delenv("GRAFT_IMAGE", raising=False)
    else:
        patch.setenv("GRAFT_IMAGE", image)


def pretend(**arguments: Any) -> None:
    """Write each output from all settings but `batch_size`, and from the inputs."""
    given_settings = {name: value for name, value in arguments.items() if isinstance(value, dict)}
    values = {key: value for part in given_settings.values() for key, value in part.items()}
    text = json.dumps({key: value for key, value in values.items() if key != WITHOUT_EFFECT}, sort_keys=True)
    paths = {name: value for name, value in arguments.items() if isinstance(value, Path)}
    read = {name: path for name, path in paths.items() if path.exists()}
    for name, path in sorted(read.items()):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        text += name + "".join(file.read_text() for file in files)
    for name in paths.keys() - read.keys():
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(f"{name}: {hash_of(text)}")


def hash_of(text: str) -> str:
    return reuse_key({"text": text})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def changed(*overrides: str) -> Params:
    return read_params([], overrides)


def test_nothing_changed(place: Place) -> None:
    place.retrain(Params())
    told = place.explain(Params())
    assert {step for step in STEPS if told[step].outcome == "reused"} == set(STEPS[:-2])
    assert told["fine_tuning"].reasons == ("nothing changed",)
    assert told["evaluation"].outcome == told["model_registration"].outcome == "runs"
    assert "always: it asks the model registry" in told["evaluation"].reasons[0]


def test_a_parameter_is_named_with_its_old_and_new_value(place: Place) -> None:
    place.retrain(Params())
    told = place.explain(changed("fine_tuning.epochs=3", "fine_tuning.lora.rank=4"))
    assert told["fine_tuning"].outcome == "runs"
    assert told["fine_tuning"].reasons == (
        "params: fine_tuning.epochs not set -> 3",
        "params: fine_tuning.lora.rank 8 -> 4",
    )
    assert told["feature_extraction"].outcome == "reused"
    assert told["domain_adaptation"].outcome == "depends"
    assert told["domain_adaptation"].reasons == ("inputs: fine_tuned may change, since an earlier step runs",)


def test_new_data_is_an_input_that_changed(place: Place) -> None:
    place.retrain(Params())
    (place.data / "b.txt").write_text("two")
    told = place.explain(Params())
    assert told["data_validation"].reasons == ("inputs: folder",)
    assert told["augmentation"].outcome == "depends"


def test_an_image_and_the_code_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.retrain(Params(), image="graft@sha256:1")
    told = place.explain(Params(), image="graft@sha256:2")
    assert told["augmentation"].reasons[0] == "image: graft@sha256:1 -> graft@sha256:2"
    monkeypatch.setattr("graft.steps.running._code_digest", lambda: "another")
    told = place.explain(Params(), image="graft@sha256:1")
    assert all("code: a file of graft changed" in told[step].reasons for step in STEPS)
    assert not any(verdict.outcome == "reused" for verdict in told.values())


def test_going_back_to_earlier_parameters_reuses_the_earlier_run(place: Place) -> None:
    place.retrain(Params())
    place.retrain(changed("augmentation.views=5"))
    told = place.explain(Params())
    assert told["augmentation"].outcome == "reused"
    assert told["augmentation"].reasons == (
        "equal to a run before that one",
        "params: augmentation.views 5 -> 2",
    )


def test_outputs_that_are_gone_are_made_again(place: Place) -> None:
    place.retrain(Params())
    for kept in (place.folder / ".graft" / "cache" / "augmentation").iterdir():
        kept.rename(place.folder / "elsewhere")
    told = place.explain(Params())
    assert told["augmentation"].outcome == "runs"
    assert told["augmentation"].reasons[0].startswith("its outputs are not kept in")


def test_weights_by_name_always_run(place: Place) -> None:
    params = changed("backbone.weights=DEFAULT")
    place.retrain(params)
    told = place.explain(params)
    assert told["backbone"].outcome == "runs"
    assert "DEFAULT may name other weights by now" in told["backbone"].reasons[0]
    assert told["feature_extraction"].outcome == "depends"


def test_a_failed_step_runs_and_what_came_after_never_did(place: Place) -> None:
    place.retrain(Params())
    for step in STEPS[4:]:
        (place.latest / "steps" / f"{step}.json").unlink()
    record = place.latest / "steps" / "feature_extraction.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "failed"}))
    for kept in (place.folder / ".graft" / "cache" / "feature_extraction").iterdir():
        kept.rename(place.folder / "elsewhere")
    told = place.explain(Params())
    assert told["feature_extraction"].reasons == ("it failed in that run",)
    assert told["fine_tuning"].reasons[0] == "it did not get as far in that run"


CHANGES = (
    "data.min_side=9",
    "backbone.seed=1",
    "augmentation.views=5",
    "feature_extraction.batch_size=7",
    "fine_tuning.batch_size=7",
    "fine_tuning.seed=3",
    "domain_adaptation.batch_size=7",
    "evaluation.seed=1",
    "registry.experiment=other",
)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sets(st.sampled_from(CHANGES), max_size=3), min_size=1, max_size=2),
    st.booleans(),
    st.sampled_from([None, "graft@sha256:1"]),
)
@example([{"fine_tuning.batch_size=7"}], False, None)  # fine_tuning runs, and makes the same again
@example([{"fine_tuning.seed=3"}, set()], False, None)
@example([{"data.min_side=9"}, {"feature_extraction.batch_size=7"}], False, None)  # as in the first run again
def test_what_is_foretold_comes_true(history: list[set[str]], new_data: bool, image: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        place.retrain(Params())
        for overrides in history:
            params = changed(*sorted(overrides))
            told = place.explain(params, image)
            records = place.retrain(params, image)
            for step in STEPS:
                if told[step].outcome != "depends":
                    assert records[step]["reused"] == (told[step].outcome == "reused"), (step, told[step])
        if new_data:
            (place.data / "a.txt").write_text("other")
            assert place.explain(params, image)["data_validation"].outcome == "runs"


def test_components_say_the_same_about_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """explain-cache foretells what components decide, so it must know their rule."""
    monkeypatch.setenv("GRAFT_RUN", str(tmp_path))

    def only_decide(name: str, _find: Any, **call: Any) -> None:
        run_step(name, lambda: lambda **_: None, **{**call, "inputs": {}, "outputs": {}})

    monkeypatch.setattr("graft.steps.run_step", only_decide)
    for weights in ("pretrain", "DEFAULT", "x.pth"):
        params = changed(f"backbone.weights={weights}")
        (tmp_path / "params.yaml").write_text(f"backbone: {{weights: {weights}}}")
        for step in steps_to("registered"):
            run_here(step, tmp_path / "params.yaml", tmp_path, tmp_path)
            decided = json.loads((tmp_path / "steps" / f"{step.name}.json").read_text())["reusable"]
            told = why_always(step.name, settings_in(step, params)) is None
            assert decided == told, (step.name, weights)


@pytest.mark.parametrize("section", sorted(set(DEFAULTS) - {"registry"}))
def test_numbers_keep_the_key_on_their_way_through_kubeflow(section: str) -> None:
    from google.protobuf import json_format
    from kfp.compiler.pipeline_spec_builder import to_protobuf_value

    sent = {section: DEFAULTS[section]}
    arrived = json_format.MessageToDict(to_protobuf_value(sent))
    assert any(type(value) is float for value in arrived[section].values())
    assert key_parts("step", arrived, {}) == key_parts("step", sent, {})


def test_no_run_or_an_old_one_is_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"nowhere is no run.*\n  fix: graft retrain"):
        explain(tmp_path / "nowhere", Params(), str(place.data))
    place.retrain(Params())
    for path in (place.latest / "steps").iterdir():
        path.write_text(json.dumps({"step": path.stem, "status": "succeeded", "key": "0" * 32}))
    with pytest.raises(GraftError, match=r"an older graft wrote them\n  fix: run graft retrain once"):
        explain(place.latest, Params(), str(place.data))


def test_the_command_prints_a_line_for_every_reason(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(place.folder / ".graft"))
    monkeypatch.delenv("GRAFT_IMAGE", raising=False)
    place.retrain(Params())
    (place.folder / "params.yaml").write_text("")
    arguments = ["--run", str(place.latest), "--data", str(place.data), "--set", "fine_tuning.seed=3"]
    arguments += ["--params", str(place.folder / "params.yaml")]
    done = CliRunner().invoke(graft, ["explain-cache", *arguments], catch_exceptions=False)
    lines = [line.split(maxsplit=2) for line in done.output.splitlines()]
    assert ["augmentation", "reused", "nothing changed"] in lines
    assert ["fine_tuning", "runs", "params: fine_tuning.seed 0 -> 3"] in lines
