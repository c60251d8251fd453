"""Exports: the same probabilities for any batch, or nothing at all."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.files import read_json, sha256_file
from graft.images.preprocessing import Preprocessing
from graft.serving import engines
from graft.serving.exporting import FORMATS, export, sample

Command = Callable[..., Result]
Make = Callable[[str], Classifier]
Exported = Callable[[str, str], Path]
FILES = {"onnx": ["model.onnx"], "openvino": ["model.bin", "model.xml"], "torch-export": ["model.pt2"]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, classifier: Make) -> Exported:
    """The folder of an export; the same arguments give the same one."""

    @cache
    def make(backbone: str, format_name: str) -> Path:
        folder = tmp_path_factory.mktemp("exports") / "export"
        export(classifier(backbone), format_name, folder)
        return folder

    return make


def by_other_means(folder: Path, format_name: str) -> engines.Run:
    """As a user's program would run the export, without graft."""
    if format_name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx")
        return lambda pixels: session.run(["probabilities"], {"pixels": pixels.numpy()})[0]
    if format_name == "openvino":
        return engines.run_openvino(folder)  # for its precision, which differs by machine
    module = torch.export.load(folder / "model.pt2").module()
    return lambda pixels: module(pixels).detach().numpy()


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_export_gives_the_originals_probabilities(
    exported: Exported, classifier: Make, format_name: str
) -> None:
    folder, model = exported("digits_cnn", format_name), classifier("digits_cnn")
    run = by_other_means(folder, format_name)
    generator = torch.Generator().manual_seed(5)
    for count in (1, 3, 50):  # the export was made with 2 and tried with 7 and 1
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        answers = run(pixels)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, model.predict_pixels(pixels), atol=1e-5)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_network_that_crops(model: Classifier, tmp_path: Path, format_name: str) -> None:
    preprocessing = Preprocessing(input_size=32, resize_size=41, mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.5))
    config = replace(model.config, preprocessing=preprocessing)
    cropping = Classifier(model.trunk, model.head, config=config, classes=model.classes)
    pixels = sample(preprocessing)[1:4]
    record = export(cropping, format_name, tmp_path / "export", pixels=pixels)
    assert record["input"]["shape"] == ["N", 3, 41, 41]
    answers = by_other_means(tmp_path / "export", format_name)(pixels)
    np.testing.assert_allclose(answers, cropping.predict_pixels(pixels), atol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_larger_networks(exported: Exported, classifier: Make, backbone: str, format_name: str) -> None:
    model = classifier(backbone)
    pixels = sample(model.config.preprocessing)[1:4]
    answers = by_other_means(exported(backbone, format_name), format_name)(pixels)
    np.testing.assert_allclose(answers, model.predict_pixels(pixels), atol=1e-3)


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_is_written_beside_it(exported: Exported, classifier: Make, format_name: str) -> None:
    folder = exported("digits_cnn", format_name)
    record = read_json(folder / "export.json")
    assert sorted(os.listdir(folder)) == sorted([*FILES[format_name], "export.json"])
    assert sorted(record["files"]) == FILES[format_name]
    for name, facts in record["files"].items():
        assert facts == {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    model = classifier("digits_cnn")
    assert record["classes"] == list(model.classes)
    assert record["preprocessing"] == read_back(model.config.preprocessing.to_dict())
    assert record["input"]["shape"] == ["N", 3, 32, 32]
    assert record["check"]["inference_precision"] == "f32"
    assert 0 <= record["check"]["max_difference"] < 1e-4
    assert 0 < record["latency"]["exported_ms"] < 1000
    assert 0 < record["latency"]["original_ms"] < 1000
    assert record["original_bytes"] / 2 < sum(each["bytes"] for each in record["files"].values())


def read_back(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def test_onnx_names_its_batch(exported: Exported) -> None:
    import onnx

    graph = onnx.load(exported("digits_cnn", "onnx") / "model.onnx").graph
    shapes = [[d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in
              (graph.input[0], graph.output[0])]  # fmt: skip
    assert shapes == [["batch", 3, 32, 32], ["batch", 4]]


def spoiled(model: Classifier, folder: Path) -> None:
    """An exporter that makes one class's weights a little larger."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.weight[0] *= 1.05
    engines.write_torch_export(other, folder)


def not_a_number(folder: Path) -> engines.Run:
    return lambda pixels: np.full((len(pixels), 4), np.nan, np.float32)


def one_image_only(folder: Path) -> engines.Run:
    run = engines.run_torch_export(folder)
    return lambda pixels: run(pixels[:1]).repeat(len(pixels), 0)


@pytest.mark.parametrize(
    "change", [{"write": spoiled}, {"run": not_a_number}, {"run": one_image_only}], ids=lambda c: str([*c])
)
def test_an_export_that_answers_otherwise_is_refused(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    tampered = {**FORMATS, "torch-export": FORMATS["torch-export"]._replace(**change)}
    monkeypatch.setattr("graft.serving.exporting.FORMATS", tampered)
    with pytest.raises(
        GraftError, match=r"differ by up to .* 0\.001 is allowed.*\n.*try another format: onnx"
    ):
        export(model, "torch-export", tmp_path / "export")
    assert not os.listdir(tmp_path)


def test_a_network_that_cannot_be_expressed(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "forward", lambda self, x: self.head(self.trunk(x)) * float(x.mean()))
    with pytest.raises(GraftError, match=r"digits_cnn cannot be exported as torch-export: .*\n.*try another"):
        export(model, "torch-export", tmp_path / "export")
    assert not os.listdir(tmp_path)


def test_a_folder_of_something_else_is_left_alone(model: Classifier, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(GraftError, match=r"holds something that is no export\n.*name a new folder"):
        export(model, "torch-export", tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_the_command_on_the_users_images(
    graft_command: Command, folder: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "export"
    for images in ([], ["--images", pictures / "*.bmp", "--images", pictures / "deep"]):
        done = graft_command("export", folder, "--format", "torch-export", "-o", out, *images)
        assert done.exit_code == 0
    assert "largest difference of a probability on 3 images" in done.stdout
    assert read_json(out / "export.json")["check"]["images"] == 3


SILENT = """
import socket, sys
def refuse(*arguments): raise AssertionError(f"asked the network for {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
from graft.serving.exporting import export
import graft
export(graft.load(sys.argv[1]), "openvino", sys.argv[2])
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_openvino_sends_nothing(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(folder), str(tmp_path / "export")],
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "intel").exists()
