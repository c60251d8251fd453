"""ImageNet accuracy, measured with a network's own head."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from graft.backbones import catalogue
from graft.backbones.verifying import labelled_images, top_k, whole_network, wordnet_ids
from graft.errors import GraftError

IDS = ("n01440764", "n01443537", "n02123045", "n15075141")  # classes 0, 1, 281 and 999
NAME = "timm/test_resnet"  # tiny: 0.5 M parameters


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three noisy images of each of four classes, named in either way."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for wordnet_id in IDS:
        (folder / f"{wordnet_id} folder").mkdir()
        for number in range(3):
            image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
            named = f"{wordnet_id}_a.png" if number == 0 else f"{wordnet_id} folder/{number}.png"
            image.save(folder / named)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(catalogue.create(NAME, seed=3, with_head=True).module.state_dict(), path)
    return path


def test_labels_come_from_names_of_files_and_folders(photos: Path) -> None:
    paths, labels, left_out = labelled_images(photos)
    assert (len(paths), left_out) == (12, 0)
    assert {IDS[(0, 1, 281, 999).index(label)] for label in labels} == set(IDS)
    for path, label in zip(paths, labels, strict=True):
        own = path.name if path.name.startswith("n") else path.parent.name
        assert wordnet_ids()[label] == own[:9]


def test_ids_are_in_the_order_of_the_classes() -> None:
    assert len(wordnet_ids()) == 1000
    assert wordnet_ids() == sorted(wordnet_ids())


def test_it_counts_what_the_network_itself_answers(photos: Path, weights: Path) -> None:
    """Against logits that are reckoned here, one image at a time, ranked by sorting."""
    network, _ = whole_network(NAME, str(weights))
    expected = network.preprocessing
    paths, labels, _ = labelled_images(photos)
    ranks = []
    for path, label in zip(paths, labels, strict=True):
        side = expected.resize_size
        resized = Image.open(path).resize((side * 50 // 40, side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None]
        height, width, crop = *pixels.shape[-2:], expected.input_size
        top, left = round((height - crop) / 2), round((width - crop) / 2)
        x = expected.normalise(pixels[..., top : top + crop, left : left + crop])
        with torch.inference_mode():
            order = network.module.eval()(x)[0].argsort(descending=True).tolist()
        ranks.append(order.index(label))
    ks = (1, 300, 700, 1000)
    result = top_k(NAME, str(weights), photos, ks)
    assert result["n"] == 12
    for k in ks:
        right = sum(rank < k for rank in ranks)
        assert result[f"top{k}"] == pytest.approx(right / 12)
        assert 0 <= result[f"top{k}_low"] <= right / 12 <= result[f"top{k}_high"] <= 1
    assert result["top1000"] == 1
    assert 0.7 < result["top1000_low"] < 0.8  # Wilson's for 12 of 12: 12 / (12 + 1.96**2)


def test_a_zip_gives_what_its_folder_gives(photos: Path, weights: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    found = top_k(NAME, str(weights), tmp_path / "photos.zip", (400,))
    assert found == top_k(NAME, str(weights), photos, (400,))


def test_a_head_that_always_errs_is_found_out(photos: Path, weights: Path, tmp_path: Path) -> None:
    """Rolling the head's rows by one class shifts every answer: labels are not what was trained."""
    state = torch.load(weights, weights_only=True)
    head = torch.zeros(1000)
    head[torch.tensor([0, 1, 281, 999])] = 1e4  # answers one of the four classes, whatever it sees
    state["fc.bias"] = head
    torch.save(state, tmp_path / "right.pth")
    state["fc.bias"] = head.roll(1)
    torch.save(state, tmp_path / "rolled.pth")
    assert top_k(NAME, str(tmp_path / "right.pth"), photos, (4,))["top4"] == 1
    assert top_k(NAME, str(tmp_path / "rolled.pth"), photos, (2,))["top2"] < 0.6


def test_images_without_an_id_are_left_out_and_counted(photos: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "p")
    image = tmp_path / "p" / f"{IDS[0]}_a.png"
    for name in ("cat.png", "n00000000_nothing.png", "n014407641.png"):
        shutil.copy(image, tmp_path / "p" / name)
    (tmp_path / "p" / "README.txt").write_text("not an image")
    result = top_k(NAME, str(weights), tmp_path / "p")
    assert (result["n"], result["left_out"]) == (12, 3)


def test_auxiliary_heads_of_a_file_are_left_out(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    torch.manual_seed(0)
    whole = googlenet(weights=None, aux_logits=True, init_weights=False).eval()
    torch.save(whole.state_dict(), tmp_path / "g.pth")
    network, digest = whole_network("googlenet", str(tmp_path / "g.pth"))
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.module.eval()(x), whole(x))
    assert len(digest or "") == 64


@pytest.mark.parametrize(
    ("name", "given", "sha256", "problem"),
    [
        ("digits_cnn", "file", None, "no head for ImageNet's 1000 classes"),
        ("mobilenet_v2", "file", None, "does not fit mobilenet_v2 with its head"),
        (NAME, "random", None, "no head for ImageNet"),
        (NAME, "models:/a@b", None, "no head for ImageNet"),
        (NAME, "no_such_tag", None, "no_such_tag"),
        ("resnet18", "IMAGENET22K", None, "no weights of resnet18"),
        (NAME, "DEFAULT", "0123456789", "--sha256 0123456789"),
        (NAME, "file", "0123456789", "0123456789"),
        ("resnet81", "file", None, "resnet81"),
    ],
)
def test_what_cannot_be_verified_is_named(
    name: str, given: str, sha256: str | None, problem: str, weights: Path
) -> None:
    with pytest.raises(GraftError) as error:
        whole_network(name, str(weights) if given == "file" else given, sha256)
    assert problem in error.value.problem


def test_a_place_without_such_images_is_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="begins with a WordNet id"):
        top_k(NAME, str(weights), tmp_path)
    with pytest.raises(GraftError, match="neither a folder nor a zip"):
        top_k(NAME, str(weights), tmp_path / "absent.zip")


@pytest.mark.photos
@pytest.mark.parametrize(
    ("name", "file", "top1", "top5"),
    [("squeezenet1_1", "squeezenet1_1-imagenet-forresti.pth", 0.64, 0.85)],
)
def test_published_weights_do_what_was_measured(
    shared: Path, tmp_path: Path, name: str, file: str, top1: float, top5: float
) -> None:
    """On every tenth photograph; on all 1000 it is 61.3 and 82.6."""
    with zipfile.ZipFile(shared / "data" / "imagenet_sample_256.zip") as archive:
        archive.extractall(tmp_path, sorted(archive.namelist())[::10])
    result = top_k(name, str(shared / "weights" / file), tmp_path)
    assert result["n"] == 100
    assert result["top1"] == pytest.approx(top1, abs=0.011)
    assert result["top5"] == pytest.approx(top5, abs=0.011)


def test_the_head_alone_differs_from_the_trunk() -> None:
    """The whole network is the trunk and a linear layer: its logits are those of the features."""
    whole = catalogue.create("squeezenet1_1", seed=1, with_head=True).module.eval()
    network = catalogue.create("squeezenet1_1", seed=1)
    assert network.head == ("classifier.1",)
    resnet = catalogue.create("resnet18", seed=1, with_head=True).module.eval()
    trunk = catalogue.create("resnet18", seed=1).module.eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert whole(x).shape == (2, 1000)
        assert torch.allclose(
            functional.linear(trunk(x), resnet.fc.weight, resnet.fc.bias), resnet(x), atol=1e-5
        )
