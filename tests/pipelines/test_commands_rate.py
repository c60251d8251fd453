import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner

from graft.errors import GraftError
from graft.params import read_params
from pipelines.commands_rate import find_rate
from tests.pipelines.conftest import TINY


@pytest.fixture
def place(two_domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(two_domains, tmp_path / "data")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / ".graft"))
    monkeypatch.delenv("GRAFT_RUN", raising=False)
    return tmp_path


def test_the_suggested_rate_can_be_pasted_and_the_curve_is_a_picture(place: Path) -> None:
    done = CliRunner().invoke(find_rate, ["--steps", "40"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    override = done.output.strip().rpartition("--set ")[2]
    params = read_params([place / "params.yaml"], [override])
    assert 1e-7 < (params.fine_tuning.learning_rate or 0) < 1
    assert ElementTree.parse(place / "learning-rate.svg").getroot().tag.endswith("svg")
    assert (place / "runs" / "find-rate" / "probe" / "model.json").exists()


def test_a_missing_data_folder_is_named(place: Path) -> None:
    with pytest.raises(GraftError, match=r"no data folder nowhere\n  fix: run graft import"):
        CliRunner().invoke(find_rate, ["--data", "nowhere"], catch_exceptions=False)
