"""`graft predict`: the classifier's own probabilities, one row per image, whatever one image does."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result

import graft
from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.serving import predicting
from graft.serving.finding import find_images
from graft.serving.predicting import Prediction, predict
from graft.serving.tables import COLUMNS, table

Command = Callable[..., Result]
GOOD = ["[e].png", "a.png", "b.jpg", "c.bmp", "d.PNG", "deep/er/g.tif", "deep/f.png"]
ALL = [*GOOD[:3], "broken.jpg", *GOOD[3:]]


def probabilities(tops: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    listed = [{each["label"]: each["probability"] for each in json.loads(top)} for top in tops]
    return np.array([[row[name] for name in classes] for row in listed])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("batch_size", ["3", "64"])
def test_the_table_has_the_classifiers_probabilities(
    graft_command: Command, folder: Path, pictures: Path, tmp_path: Path, suffix: str, batch_size: str
) -> None:
    out = tmp_path / f"out{suffix}"
    done = graft_command("predict", folder, pictures, "-o", out, "--top-k", "9", "--batch-size", batch_size)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "8 images, 1 of them with an error" in done.stderr
    rows = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert tuple(rows.columns) == COLUMNS
    assert list(rows["path"]) == [str(pictures / name) for name in ALL]
    broken = rows.loc[rows["error"].notna()]
    assert list(broken["path"]) == [str(pictures / "broken.jpg")]
    assert broken["error"].item() == "truncated"
    assert broken[["label", "probability", "top"]].isna().all(axis=None)
    good = rows.drop(broken.index)
    model = graft.load(folder)
    wanted = model.predict([pictures / name for name in GOOD])
    assert np.ptp(wanted, axis=0).max() > 0.1  # the images are told apart
    np.testing.assert_allclose(probabilities(good["top"], model.classes), wanted, atol=1e-6)
    np.testing.assert_allclose(good["probability"], wanted.max(1), atol=1e-6)
    assert list(good["label"]) == [model.classes[i] for i in wanted.argmax(1)]
    assert os.listdir(tmp_path) == [out.name]


def test_csv_on_the_standard_output(graft_command: Command, folder: Path, pictures: Path) -> None:
    done = graft_command("predict", folder, pictures / "a.png", "--top-k", "2")
    rows = pd.read_csv(io.StringIO(done.stdout))
    assert len(rows) == 1
    (top,) = (json.loads(each) for each in rows["top"])
    assert [each["label"] for each in top][:1] == [rows["label"][0]]
    assert len(top) == 2
    assert top[0]["probability"] >= top[1]["probability"]


def test_rows_come_in_the_order_named_and_once(pictures: Path) -> None:
    places = [str(pictures / "d.PNG"), str(pictures / "deep/**/*.*"), str(pictures), str(pictures / "a.png")]
    found = [path.relative_to(pictures).as_posix() for path in find_images(places)]
    first = ["d.PNG", "deep/er/g.tif", "deep/f.png"]
    assert found == first + [name for name in ALL if name not in first]


def test_a_bracket_in_a_files_name_is_no_pattern(pictures: Path) -> None:
    assert find_images([str(pictures / "[e].png")]) == [pictures / "[e].png"]


def test_a_missing_file_is_a_row(graft_command: Command, folder: Path, pictures: Path) -> None:
    done = graft_command("predict", folder, pictures / "no.png", pictures / "a.png")
    rows = pd.read_csv(io.StringIO(done.stdout))
    assert done.exit_code == 0
    assert rows["error"][0] == "cannot be read: no such file or directory"
    assert rows["label"].notna().tolist() == [False, True]


@pytest.mark.parametrize("place", ["nothing/*.png", "nothing.png", "empty"])
def test_no_image_at_all(
    graft_command: Command, folder: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GraftError, match=r"no image found in .*\n.*name files, folders") as error:
        graft_command("predict", folder, tmp_path / place, "-o", tmp_path / "o.csv")
    assert place in error.value.problem
    assert not (tmp_path / "o.csv").exists()


def test_an_empty_pattern_beside_images_is_said(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_images([str(pictures / "*.gif"), str(pictures / "a.png")]) == [pictures / "a.png"]
    assert "*.gif: no image here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.xlsx", "out", "folder.csv"])
def test_an_output_of_another_kind(
    graft_command: Command, folder: Path, pictures: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(GraftError, match=r"neither CSV nor Parquet\n.*\.csv or \.parquet"):
        graft_command("predict", folder, pictures, "-o", tmp_path / name)


@pytest.mark.parametrize("name", ["o.csv", "o.parquet"])
def test_an_interrupted_table_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("before")

    def interrupted() -> None:
        with table(tmp_path / name, io.StringIO()) as write:
            write([Prediction(Path("a.png"), "ant", 0.5, "[]")])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "before"


def test_one_batch_at_a_time(model: Classifier, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = predicting._pixels
    monkeypatch.setattr(predicting, "_pixels", lambda path, p: (read.append(path), original(path, p))[1])
    batches = predict(model, [pictures / name for name in ALL], batch_size=3)
    assert [len(next(batches)), len(read)] == [3, 3]
    assert [len(next(batches)), len(read)] == [3, 6]


@pytest.mark.skipif(os.name != "posix", reason="needs names that are bytes")
def test_a_name_that_is_no_utf8(graft_command: Command, folder: Path, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes((pictures / "a.png").read_bytes())
    for name in ("o.csv", "o.parquet"):
        done = graft_command("predict", folder, tmp_path, "-o", tmp_path / name)
        assert done.exit_code == 0
    rows = pd.read_parquet(tmp_path / "o.parquet")
    assert [Path(each).name for each in rows["path"]] == ["caf�.png"]
    assert rows["label"].notna().all()


def test_a_folder_and_a_pipe_named_as_images(model: Classifier, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (batch,) = predict(model, [tmp_path / "pipe.png", tmp_path])
    assert [each.error for each in batch] == ["not a file", "not a file"]


def test_no_such_model(graft_command: Command, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="nomodel"):
        graft_command("predict", tmp_path / "nomodel", pictures)
    with pytest.raises(GraftError, match=r"names no version of a model\n.*models:/name@alias"):
        graft_command("predict", "models:/insects", pictures)
    nowhere = f"sqlite:///{tmp_path / 'none.db'}"
    with pytest.raises(GraftError, match=r"there is no MLflow yet at .*\n.*--tracking-uri"):
        graft_command("predict", "models:/insects@champion", pictures, "--tracking-uri", nowhere)
    assert not (tmp_path / "none.db").exists()
