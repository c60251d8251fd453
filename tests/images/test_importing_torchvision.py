"""torchvision's own dataset classes read tiny hand-made roots; nothing is downloaded here."""

from __future__ import annotations

import hashlib
import pickle
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.errors import GraftError
from graft.images.importing import import_data


def idx(path: Path, values: np.ndarray) -> None:
    """One file of MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


def mnist(root: Path, name: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    for part in ("train", "t10k"):
        idx(root / name / f"raw/{part}-images-idx3-ubyte", pixels)
        idx(root / name / f"raw/{part}-labels-idx1-ubyte", labels)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize(
    ("name", "classes"), [("MNIST", ["0", "3"]), ("FashionMNIST", ["Dress", "T-shirt-top"])]
)
def test_mnist_is_written_without_loss(
    name: str, classes: list[str], pixels: np.ndarray, tmp_path: Path
) -> None:
    mnist(tmp_path, name, pixels, np.array([3, 0, 3, 3]))
    summary = import_data(f"torchvision:{name}", tmp_path / "data", root=tmp_path)
    assert sorted(summary["counts"][""]["train"]) == classes
    assert summary["counts"][""]["train"] == summary["counts"][""]["test"]
    three = "3" if name == "MNIST" else "Dress"
    with Image.open(tmp_path / "data/train" / three / "000002.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), pixels[2])


def test_cifar10_is_written_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)

    def batch(name: str, value: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(value))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    # The tiny files cannot have the published digests: torchvision gets theirs to check instead.
    labelled = {"data": data, "labels": [1, 0]}
    monkeypatch.setattr(CIFAR10, "train_list", [batch("data_batch_1", labelled)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", labelled)])
    name, md5 = batch("batches.meta", {"label_names": ["airplane", "automobile"]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})

    summary = import_data("torchvision:CIFAR10", tmp_path / "data", root=tmp_path)
    each = {"airplane": 1, "automobile": 1}
    assert summary["counts"] == {"": {"train": each, "test": each}}
    with Image.open(tmp_path / "data/test/automobile/000000.png") as image:
        assert np.array_equal(np.asarray(image), data[0].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_failed_download_says_where_to_put_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: str
) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "url", f"{no_network}cifar.tar.gz")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [no_network])
    root = tmp_path / "root"
    with pytest.raises(
        GraftError, match=r"(?s)downloading it failed.*fix: put cifar-10-python.tar.gz into .*root"
    ):
        import_data("torchvision:CIFAR10", tmp_path / "data", root=root)
    with pytest.raises(
        GraftError, match=r"(?s)failed.*fix: put MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}"
    ):
        import_data("torchvision:MNIST", tmp_path / "data", root=root)
    assert not (tmp_path / "data").exists()


def test_damaged_files_are_named(pixels: np.ndarray, tmp_path: Path) -> None:
    mnist(tmp_path, "MNIST", pixels, np.array([3, 0, 3, 3]))
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(GraftError, match=r"(?s)cannot be read.*fix: remove them and put MNIST/raw"):
        import_data("torchvision:MNIST", tmp_path / "data", root=tmp_path)
