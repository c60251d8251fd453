"""`graft monitor`: what it finds, what it writes, what it refuses."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.table import ImageTable, read_table, write_table
from graft.monitoring.monitor import monitor as compare
from graft.monitoring.monitor import reference_splits
from graft.params import Registry
from graft.registry.registration import register
from pipelines.commands_monitoring import latest_table
from pipelines.commands_monitoring import monitor as command

Folder = Callable[..., Path]
VOID = {"meta", "img", "br", "hr"}


class Page(html.parser.HTMLParser):
    """Collects addresses and tags, and notices those that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Monitoring:
    """Runs the command on the table and the model of this room."""

    def __init__(self, table: ImageTable, model: Path, output: Path) -> None:
        self.table, self.model, self.output = table, model, output

    def __call__(self, new: Path, *more: str) -> Result:
        given = [str(new), "--model", str(self.model), "--images", str(self.table.path)]
        return CliRunner().invoke(command, [*given, "-o", str(self.output), *more])

    def refusal(self, new: Path, *more: str) -> str:
        result = self(new, *more)
        assert isinstance(result.exception, GraftError)
        assert not self.output.exists() or not any(self.output.glob("monitor.*"))
        return str(result.exception)

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.output / "monitor.json").read_text())


@pytest.fixture
def run(table: ImageTable, model_folder: Path, tmp_path: Path) -> Monitoring:
    return Monitoring(table, model_folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("looks", "status", "code"),
    [({}, "fine", 0), ({"tint": 25}, "drifted", 3), ({"hard": True}, "retrain", 4)],
)
def test_a_scheduler_learns_from_the_exit_code(
    run: Monitoring, folder: Folder, looks: dict, status: str, code: int
) -> None:
    result = run(folder(**looks))
    assert result.exit_code == code, result.output
    assert (run.record["status"], run.record["exit_code"]) == (status, code)
    assert result.stdout.startswith(f"{status}: ")
    assert f"{code}  {status}" in CliRunner().invoke(command, ["--help"]).output


def test_a_looser_bound_asks_for_no_retraining(run: Monitoring, folder: Folder) -> None:
    assert run(folder(hard=True), "--max-drop", "1").exit_code in (0, 3)


def test_images_of_the_same_kind_seldom_raise_an_alarm(
    table: ImageTable, model: Classifier, folder: Folder
) -> None:
    found = [
        compare(model, table, folder(30, seed=seed), alpha=0.1, max_drop=0.05, seed=seed).status
        for seed in range(2, 14)
    ]
    assert sum(status != "fine" for status in found) <= 5  # in each, 0.1 of drift and 0.1 of a fall at most


def test_everything_is_in_the_record(run: Monitoring, folder: Folder) -> None:
    run(folder(), "--seed", "3")
    record = run.record
    assert record["images"] | {"folder": ""} == {"folder": "", "found": 100, "used": 100, "broken": []}
    assert record["reference"]["splits"] == ["val", "test", "unlabeled"]
    assert record["reference"]["images"] == record["reference"]["labelled_images"] == 120
    assert record["reference"]["data_md5"] == "0123456789abcdef0123456789abcdef"
    assert record["settings"] == {"alpha": 0.01, "alpha_each_test": 0.005, "max_drop": 0.05, "seed": 3}
    assert record["mmd_test"]["permutations"] == 999
    assert record["accuracy"]["labelled"] == 120
    assert sum(record["predicted_classes"]["new"].values()) == pytest.approx(1)
    distances = [one["distance"] for one in record["unusual"]]
    assert distances == sorted(distances, reverse=True)
    assert (folder() / record["unusual"][0]["path"]).is_file()


def test_the_same_seed_finds_the_same(run: Monitoring, folder: Folder) -> None:
    records = []
    for _ in range(2):
        run(folder())
        records.append(run.record | {"made": ""})
    assert records[0] == records[1]


def test_broken_images_are_listed_and_left_out(run: Monitoring, folder: Folder) -> None:
    new = folder()
    (new / "empty.jpg").touch()
    (new / "camera1" / "note.png").write_text("not a picture, but words")
    (new / ".hidden.png").write_bytes(b"x")
    result = run(new)
    assert result.exit_code == 0
    assert run.record["images"]["used"] == 100
    assert run.record["images"]["found"] == 102
    assert run.record["images"]["broken"] == [
        {"path": "camera1/note.png", "reason": "text, not an image"},
        {"path": "empty.jpg", "reason": "zero bytes"},
    ]
    assert "empty.jpg: zero bytes" in result.stdout
    assert "2 broken files were left out" in (run.output / "monitor.html").read_text()


def test_the_page_stands_alone(run: Monitoring, folder: Folder) -> None:
    run(folder(tint=25))
    text = (run.output / "monitor.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == 2
    assert page.tags.count("img") == 16
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "<i>lying" not in text
    assert "&lt;i&gt;lying&lt;/i&gt; &amp; $x_{" in text


def test_too_few_images_are_refused(run: Monitoring, folder: Folder) -> None:
    new = folder(19)
    (new / "bad.jpg").write_bytes(b"")
    said = run.refusal(new)
    assert "19 usable images, and 20 are needed; the first of 1 broken files: bad.jpg: zero bytes" in said
    assert "collect more new images" in said


def test_a_folder_that_is_none_is_refused(run: Monitoring, tmp_path: Path) -> None:
    assert "does not exist" in run.refusal(tmp_path / "nowhere")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    assert "give a folder" in run.refusal(tmp_path / "one.png")


def test_an_output_that_would_be_overwritten_is_refused(
    run: Monitoring, folder: Folder, tmp_path: Path
) -> None:
    new = folder()
    run.output.mkdir()
    (run.output / "thesis.txt").write_text("years of work")
    assert "give a new or an empty folder" in run.refusal(new)
    assert (run.output / "thesis.txt").exists()
    assert "give a folder elsewhere" in run.refusal(new, "-o", str(new / "monitor"))


def test_a_table_of_other_classes_or_without_labelled_images_is_refused(
    run: Monitoring, records: list[dict[str, Any]], folder: Folder, tmp_path: Path
) -> None:
    new = folder()
    write_table(tmp_path / "other", records, classes=("ant", "bee"), data_md5="0" * 32)
    assert "--images" in run.refusal(new, "--images", str(tmp_path / "other"))
    bare = [record | {"label": -1} for record in records]
    write_table(tmp_path / "bare", bare, classes=run.table.classes, data_md5="0" * 32)
    said = run.refusal(new, "--images", str(tmp_path / "bare"))
    assert "0 labelled held-out images, and 20 are needed" in said
    assert "data.test_fraction" in said


def test_the_training_split_joins_the_reference_only_where_the_others_are_few(
    table: ImageTable, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert reference_splits(table) == ("val", "test", "unlabeled")
    few = [record for record in records if record["split"] != "test"]
    write_table(tmp_path / "few", few, classes=table.classes, data_md5="0" * 32)
    assert reference_splits(read_table(tmp_path / "few")) == ("train", "val", "test", "unlabeled")


def test_the_latest_run_is_the_default(table: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="graft retrain"):
        latest_table(tmp_path)
    place = tmp_path / "artifacts" / "retraining-1" / "data-validation"
    place.mkdir(parents=True)
    (place / "images").symlink_to(table.path, target_is_directory=True)
    assert latest_table(tmp_path) == place / "images"


def test_an_empty_registry_is_named(
    run: Monitoring, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    said = run.refusal(folder(), "--model", "models:/bars@champion")
    assert "holds no models" in said
    assert "MLFLOW_TRACKING_URI" in said


def test_the_champion_of_a_registry_is_fetched(
    run: Monitoring, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("predictions", "report"):
        (tmp_path / name).write_text(name)
    register(
        run.model,
        {"winner": "probe", "promote": True, "reasons": []},
        Registry(model_name="bars"),
        lineage={"data_md5": "a" * 32, "git_commit": "c0ffee", "params_sha256": "b" * 64},
        metrics={"accuracy.probe": 0.9},
        predictions=tmp_path / "predictions",
        report=tmp_path / "report",
    )
    new = folder()
    assert run(new, "--model", "models:/bars@champion").exit_code == 0
    assert run.record["model"] == "models:/bars@champion"
    said = str(run(new, "--model", "models:/wasps@champion").exception)
    assert "could not fetch models:/wasps@champion" in said
