from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.params import FineTuning, Params, parse, read_params

ROOT = Path(__file__).resolve().parent.parent


def test_the_shipped_params_say_what_the_defaults_say() -> None:
    """Whoever deletes a line of params.yaml changes nothing."""
    shipped = read_params([ROOT / "params.yaml"]).sections()
    defaults = Params().sections()
    shipped["registry"].pop("model_name")
    defaults["registry"].pop("model_name")
    assert shipped == defaults


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fine_tuning.epoch=3", r"unknown key 'fine_tuning.epoch'\n  fix: did you mean 'epochs'\?"),
        ("fine_tunin.epochs=3", r"unknown key 'fine_tunin'\n  fix: did you mean 'fine_tuning'\?"),
        ("backbone.pretrain.epoch=3", r"unknown key 'backbone.pretrain.epoch'\n.*'epochs'"),
        ("data.zzz=3", r"unknown key 'data.zzz'\n  fix: valid keys: max_broken_fraction"),
        ("fine_tuning.epochs=0", r"fine_tuning.epochs = 0: .*greater than or equal to 1"),
        ("fine_tuning.epochs=many", r"fine_tuning.epochs = 'many'"),
        ("fine_tuning.method=magic", r"fine_tuning.method = 'magic': .*'head_then_all'"),
        ("augmentation.rotate=400", r"augmentation.rotate = 400"),
        ("epochs=3", r"not of the form section.key=value"),
        ("fine_tuning.epochs", r"not of the form section.key=value"),
    ],
)
def test_bad_keys_and_values_are_named_with_their_fix(override: str, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        read_params([ROOT / "params.yaml"], [override])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"nowhere.yaml does not exist"):
        read_params([tmp_path / "nowhere.yaml"])
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(GraftError, match=r"broken.yaml is not valid YAML"):
        read_params([tmp_path / "broken.yaml"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(GraftError, match=r"list.yaml holds a list, not sections"):
        read_params([tmp_path / "list.yaml"])


def test_overlays_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("fine_tuning: {epochs: 2}\n")
    params = read_params([ROOT / "params.yaml", tmp_path / "over.yaml"], ["fine_tuning.seed=7"])
    assert (params.fine_tuning.epochs, params.fine_tuning.seed) == (2, 7)
    assert params.fine_tuning.head_epochs == FineTuning().head_epochs


def test_every_recipe_is_valid() -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        read_params([ROOT / "params.yaml", recipe])


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Params().fine_tuning.epochs = 3  # type: ignore[misc]


@given(st.integers(1, 500), st.floats(1e-6, 1.0))
def test_what_goes_out_comes_back(epochs: int, rate: float) -> None:
    """Kubeflow turns every number into a float on its way to a step."""
    section = FineTuning(epochs=epochs, learning_rate=rate)
    as_kubeflow_sends = {k: float(v) if type(v) is int else v for k, v in section.model_dump().items()}
    assert parse(FineTuning, as_kubeflow_sends, "here") == section
