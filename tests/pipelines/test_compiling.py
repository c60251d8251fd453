from pathlib import Path

import pytest
import yaml
from kfp import compiler, dsl

from graft.errors import GraftError
from graft.params import read_params
from pipelines.compiling import compile_pipeline, refuse_local_surprises


@dsl.component(base_image="python", install_kfp_package=False)
def ask() -> bool:
    return True


@dsl.component(base_image="python", install_kfp_package=False)
def act(x: str = "a"):
    print(x)


def compiled(pipeline: object, tmp_path: Path) -> dict:
    compiler.Compiler().compile(pipeline, str(tmp_path / "p.yaml"))
    return next(iter(yaml.safe_load_all((tmp_path / "p.yaml").read_text())))


def test_conditions_are_refused(tmp_path: Path) -> None:
    @dsl.pipeline
    def conditional():
        with dsl.If(ask().output == True):  # noqa: E712 - kfp builds the condition from the comparison
            act()

    with pytest.raises(GraftError, match=r"uses dsl.If, which the local runner skips in silence\n  fix: let"):
        refuse_local_surprises(compiled(conditional, tmp_path))


def test_loops_are_refused(tmp_path: Path) -> None:
    @dsl.pipeline
    def looping():
        with dsl.ParallelFor(["a", "b"]) as item:
            act(x=item)

    with pytest.raises(GraftError, match=r"dsl\.ParallelFor"):
        refuse_local_surprises(compiled(looping, tmp_path))


def test_exit_handlers_are_refused(tmp_path: Path) -> None:
    @dsl.pipeline
    def handled():
        with dsl.ExitHandler(act()):
            ask()

    with pytest.raises(GraftError, match=r"dsl\.ExitHandler"):
        refuse_local_surprises(compiled(handled, tmp_path))


def test_our_own_pipeline_has_none_of_them_and_carries_the_params(tmp_path: Path) -> None:
    params = read_params([], ["fine_tuning.epochs=3"])
    spec = compile_pipeline(tmp_path / "retraining.yaml", params)
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert defaults["fine_tuning"]["defaultValue"]["epochs"] == 3
    assert defaults["folder"].get("defaultValue") is None
    assert defaults["lineage"]["defaultValue"]["params"]["fine_tuning"]["epochs"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["retraining.yaml"]
    assert set(params.sections()) <= set(defaults)
