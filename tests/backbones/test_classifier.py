"""Classifiers: stored whole or not at all, and predicting the same from every form of an image."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import graft
from graft.backbones.classifier import (
    Classifier,
    load_classifier,
    save_classifier,
)
from graft.backbones.descriptions import read_model_json, skipped, write_skipped
from graft.backbones.inputs import ImageLike
from graft.backbones.trunk import build, load_backbone, save_backbone
from graft.errors import GraftError
from graft.files import read_json, write_json


@pytest.fixture
def model() -> Classifier:
    trunk, config = build("digits_cnn", seed=1)
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, 3)
    return Classifier(trunk, head, config=config, classes=("cat", "dog", "owl"))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(
        0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )


def png(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


# --- storing


def test_round_trip(model: Classifier, pixels: torch.Tensor, tmp_path: Path) -> None:
    model(torch.rand(4, 3, 32, 32))  # moves BatchNorm's statistics: buffers must travel too
    save_classifier(model, tmp_path / "m", method="probe", extra={"C": 0.1})
    loaded = graft.load(tmp_path / "m")
    assert np.array_equal(loaded.predict_pixels(pixels), model.predict_pixels(pixels))
    assert loaded.classes == ("cat", "dog", "owl")
    assert loaded.config == model.config
    assert not loaded.training
    described = read_model_json(tmp_path / "m")
    assert (described["method"], described["C"]) == ("probe", 0.1)
    assert skipped(tmp_path / "m") is None


def test_equal_weights_give_equal_bytes(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path / "a", method="probe")
    twin = load_classifier(tmp_path / "a").train()
    for parameter in twin.parameters():  # as training leaves them
        parameter.data = parameter.data.clone(memory_format=torch.preserve_format)
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    save_classifier(twin, tmp_path / "b", method="probe")
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_keeps_the_other_files_of_the_folder(model: Classifier, tmp_path: Path) -> None:
    write_json(tmp_path / "history.json", [])
    save_classifier(model, tmp_path, method="a")
    save_classifier(model, tmp_path, method="b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.json", "model.json", "weights.safetensors"]
    assert read_model_json(tmp_path)["method"] == "b"


@pytest.mark.parametrize("damage", ["no folder", "no weights", "half weights", "other weights", "half json"])
@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_what_is_not_whole_is_refused(model: Classifier, kind: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    if kind == "classifier":
        save_classifier(model, folder, method="probe")
    else:
        save_backbone(model.trunk, model.config, folder)
    weights = folder / "weights.safetensors"
    description = folder / ("model.json" if kind == "classifier" else "backbone.json")
    if damage == "no folder":
        folder = tmp_path / "elsewhere"
    elif damage == "no weights":
        weights.unlink()
    elif damage == "half weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        description.write_bytes(description.read_bytes()[:50])
    with pytest.raises(GraftError) as error:
        load_classifier(folder) if kind == "classifier" else load_backbone(folder)
    assert str(folder) in error.value.problem
    assert "again" in error.value.fix


def test_an_interrupted_save_leaves_no_model(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(model, tmp_path, method="first")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graft.backbones.classifier.write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_classifier(model, tmp_path, method="second")
    with pytest.raises(GraftError, match=r"model\.json does not exist"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("values", [{}, {"format": "other"}, [1]])
def test_a_description_of_something_else_is_refused(values: object, tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", values)
    with pytest.raises(GraftError):
        read_model_json(tmp_path)


def test_a_description_without_an_entry_names_it(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path, method="probe")
    values = read_json(tmp_path / "model.json")
    del values["classes"]
    write_json(tmp_path / "model.json", values)
    with pytest.raises(GraftError, match="lacks classes"):
        load_classifier(tmp_path)


def test_a_description_without_its_backbone_s_facts_is_refused(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path, method="probe")
    values = read_json(tmp_path / "model.json")
    del values["backbone"]["preprocessing"]
    write_json(tmp_path / "model.json", values)
    with pytest.raises(GraftError, match="does not describe a backbone: 'preprocessing'"):
        load_classifier(tmp_path)


def test_a_skipped_candidate_says_why(tmp_path: Path) -> None:
    write_skipped(tmp_path, "one domain")
    assert skipped(tmp_path) == "one domain"
    with pytest.raises(GraftError, match="one domain"):
        load_classifier(tmp_path)


def test_a_head_of_another_size_is_a_fault(model: Classifier) -> None:
    with pytest.raises(ValueError, match="128 features to 2 classes"):
        Classifier(model.trunk, nn.Linear(128, 3), config=model.config, classes=("a", "b"))


# --- predicting


def test_every_form_of_an_image_predicts_the_same(
    model: Classifier, pixels: torch.Tensor, tmp_path: Path
) -> None:
    encoded = png(pixels[0])
    (tmp_path / "i.png").write_bytes(encoded)
    array = pixels[0].permute(1, 2, 0).numpy()
    forms: list[ImageLike] = [
        encoded,
        tmp_path / "i.png",
        str(tmp_path / "i.png"),
        Image.fromarray(array),
        array,
    ]
    probabilities = model.predict(forms)
    assert probabilities.shape == (5, 3)
    assert np.allclose(probabilities, model.predict_pixels(pixels[:1]), atol=1e-6)


def test_an_opened_image_is_turned_and_converted_as_its_file(model: Classifier, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    transparent = Image.fromarray(colours)
    transparent.save(tmp_path / "a.png")
    transparent.convert("RGB").save(tmp_path / "b.jpg", exif=turned)
    transparent.convert("RGB").quantize(16).save(tmp_path / "c.png")
    transparent.convert("CMYK").save(tmp_path / "d.jpg")
    Image.fromarray(colours[..., 0].astype(np.uint16) * 257).save(tmp_path / "e.png")
    files = sorted(tmp_path.iterdir())
    opened = [Image.open(file) for file in files]
    assert [image.mode for image in opened] == ["RGBA", "RGB", "P", "CMYK", "I;16"]
    probabilities = model.predict(files)
    assert np.allclose(model.predict(opened), probabilities, atol=1e-6)
    assert len(np.unique(probabilities[:, 0])) == 5


def test_an_array_of_images_is_a_sequence(model: Classifier, pixels: torch.Tensor) -> None:
    stacked = model.predict(pixels.permute(0, 2, 3, 1).numpy())
    assert np.allclose(stacked, model.predict_pixels(pixels), atol=1e-6)
    grey = np.random.default_rng(0).integers(0, 256, (2, 40, 50), dtype=np.uint8)
    assert np.allclose(model.predict(grey), model.predict([np.stack([g] * 3, -1) for g in grey]), atol=1e-6)


def test_probabilities_do_not_depend_on_the_batch(model: Classifier, pixels: torch.Tensor) -> None:
    whole = model.predict_pixels(pixels)
    assert whole.dtype == np.float32
    assert np.allclose(whole.sum(1), 1, atol=1e-6)
    assert np.allclose(whole, model.predict_pixels(pixels, batch_size=2), atol=1e-6)
    one = np.concatenate([model.predict_pixels(pixels[i : i + 1]) for i in range(len(pixels))])
    assert np.allclose(whole, one, atol=1e-6)


def test_nothing_in_gives_nothing_out(model: Classifier, pixels: torch.Tensor) -> None:
    assert model.predict([]).shape == (0, 3)
    assert model.predict_pixels(pixels[:0]).shape == (0, 3)
    assert model.features_pixels(pixels[:0]).shape == (0, 128)


def test_predicting_is_the_network_in_eval_mode(model: Classifier, pixels: torch.Tensor) -> None:
    x = model.config.preprocessing.normalise(pixels)
    probabilities = model.predict_pixels(pixels)
    features = model.features_pixels(pixels, batch_size=3)
    assert model.training
    model.eval()
    with torch.inference_mode():
        assert np.allclose(model(x).softmax(1).numpy(), probabilities, atol=1e-6)
        assert torch.allclose(model.trunk(x), features, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (b"not an image", "number 1"),
        (b"", "number 1"),
        ("nowhere/photo.jpg", "nowhere/photo.jpg"),
        (np.zeros((4, 4, 3), np.float32), "float32 (4, 4, 3)"),
        (np.zeros((4, 4, 5), np.uint8), "uint8 (4, 4, 5)"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 (0, 4, 3)"),
        (3, "a int is neither"),
    ],
)
def test_a_broken_image_is_named(model: Classifier, pixels: torch.Tensor, image: object, named: str) -> None:
    with pytest.raises(GraftError) as error:
        model.predict([png(pixels[0]), image])  # type: ignore[list-item]
    assert named in error.value.problem
    assert error.value.fix


@pytest.mark.parametrize(
    "image",
    [b"\x89PNG", "photo.jpg", Path("photo.jpg"), Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)],
)
def test_one_image_alone_is_not_a_sequence(model: Classifier, image: object) -> None:
    with pytest.raises(GraftError, match=r"predict\(\[image\]\)"):
        model.predict(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 31, 31, dtype=torch.uint8)])
def test_pixels_of_another_kind_are_a_fault(model: Classifier, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 3, 32, 32\)"):
        model.predict_pixels(wrong)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """On a real file system of 300 KiB, in a mount namespace of its own."""
    script = f"""
from pathlib import Path
from torch import nn
from graft.backbones.classifier import Classifier, save_classifier
from graft.backbones.trunk import build
trunk, config = build("digits_cnn")
model = Classifier(trunk, nn.Linear(128, 2), config=config, classes=("a", "b"))
try:
    save_classifier(model, "{tmp_path}/m", method="probe")
except Exception as error:
    print(type(error).__name__, error, sorted(path.name for path in Path("{tmp_path}/m").iterdir()))
"""
    mount = f"mount -t tmpfs -o size=300k tmpfs {tmp_path} && exec {sys.executable} -c '{script}'"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*command, f"mount -t tmpfs x {tmp_path}"]).returncode:
        pytest.skip("needs permission to mount a small file system")
    done = subprocess.run([*command, mount], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("GraftError the disk is full")
    assert "free some space" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
