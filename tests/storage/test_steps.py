"""The step data_validation on S3, as `python -m components` runs it, and DVC's own push and pull."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.__main__ import main
from graft.files import folder_md5, read_json
from graft.images.table import read_table
from tests.storage.conftest import put, read
from tests.storage.proxy import Proxy


def validated(address: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("GRAFT_HOME", str(place / "home"))
    monkeypatch.setenv("GRAFT_RUN", str(place / "run"))
    (place / "params.yaml").write_text("")
    words = ["--params", str(place / "params.yaml"), "--folder", address]
    return main(["data_validation", *words, "--images", f"{place}/images", "--docs", f"{place}/docs"])


def record(place: Path) -> dict:
    return read_json(place / "run" / "steps" / "data_validation.json")


def test_the_step_on_a_plain_folder(
    bucket: str, proxy: Proxy, two_domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, {f"data/{name}": content for name, content in read(two_domains).items()})
    address = f"s3://{bucket}/data"
    assert validated(address, tmp_path, monkeypatch) == 0
    table = read_table(tmp_path / "images")
    assert table.data_md5 == folder_md5(two_domains)
    assert read_json(tmp_path / "docs" / "validation.json")["folder"] == address
    assert not (tmp_path / "home" / "work" / "data_validation" / record(tmp_path)["key"]).exists()
    proxy.forget()
    assert validated(address, tmp_path, monkeypatch) == 0
    assert record(tmp_path)["reused"]
    assert proxy.fetched() == 0
    new = b"x" + (two_domains / "source" / "bar" / "bar0.png").read_bytes()
    put(bucket, {"data/source/bar/broken.png": new})
    assert validated(address, tmp_path, monkeypatch) in (0, 1)
    assert not record(tmp_path)["reused"]
    assert proxy.fetched() == 1


def test_what_is_wrong_with_the_data_is_said_of_the_address(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put(bucket, {"data/.hidden": b"x"})
    assert validated(f"s3://{bucket}/data", tmp_path, monkeypatch) == 1
    said = capfd.readouterr().err
    assert f"the data folder s3://{bucket}/data is empty" in said
    assert str(tmp_path / "home" / "work") not in said
    assert "Traceback" not in said


def test_retrain_hands_an_address_on_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.errors import GraftError
    from graft.params import Params
    from pipelines import local

    handed = []

    def stop(run: Path, params: Params, folder: str, *more: object) -> None:
        handed.append(folder)
        raise GraftError("enough", "nothing")

    monkeypatch.setattr(local, "_run_pipeline", stop)
    monkeypatch.chdir(tmp_path)
    for data in ("s3://bucket/data", "data"):
        with pytest.raises(GraftError, match="enough"):
            local.retrain(Params(), data, tmp_path / "runs")
    assert handed == ["s3://bucket/data", str(tmp_path / "data")]
    with pytest.raises(GraftError, match="no address of data"):
        local.retrain(Params(), "gs://bucket/data", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def dvc(folder: Path, *words: str) -> None:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env={**os.environ, "PATH": tools},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.heavy
def test_what_dvc_pushed_is_what_the_step_sees_and_dvc_pulls_it_back(
    bucket: str, proxy: Proxy, two_domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("dvc_s3") is None:
        pytest.skip("needs dvc-s3 (pip install 'dvc[s3]'), which is not installed")
    from graft.storage.revisions import settle

    repository = tmp_path / "repository"
    shutil.copytree(two_domains, repository / "data")
    (repository / ".dvc").mkdir()
    (repository / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    remote = storage\n    analytics = false\n"
        f"['remote \"storage\"']\n    url = s3://{bucket}/team/dvc\n    endpointurl = {proxy.url}\n"
    )
    dvc(repository, "add", "-q", "data")
    dvc(repository, "push", "-q")
    address = settle(str(repository / "data.dvc"))
    md5 = yaml.safe_load((repository / "data.dvc").read_text())["outs"][0]["md5"]
    assert address == f"dvc+s3://{bucket}/team/dvc?md5={md5}"
    assert validated(address, tmp_path, monkeypatch) == 0
    assert f"{read_table(tmp_path / 'images').data_md5}.dir" == md5
    for left in ("data", ".dvc/cache"):
        shutil.rmtree(repository / left)
    dvc(repository, "pull", "-q")
    assert read(repository / "data") == read(two_domains)
