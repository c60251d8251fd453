"""torchvision's datasets by name, from files on this machine or downloaded where the network allows."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from graft.errors import GraftError
from graft.images.importing.layout import UNLABELED, Incoming, class_folders

DEFAULT_ROOT = Path("~/.cache/graft/torchvision")
_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
_BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
_IDX = "{name}/raw/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte.gz"
_SETS: Mapping[str, tuple[Mapping[str, Mapping[str, Any]], str]] = {  # splits, files under the root
    "CIFAR10": (_BY_FLAG, "cifar-10-python.tar.gz"),
    "CIFAR100": (_BY_FLAG, "cifar-100-python.tar.gz"),
    "FashionMNIST": (_BY_FLAG, _IDX.format(name="FashionMNIST")),
    "KMNIST": (_BY_FLAG, _IDX.format(name="KMNIST")),
    "MNIST": (_BY_FLAG, _IDX.format(name="MNIST")),
    "STL10": ({**_BY_NAME, UNLABELED: {"split": UNLABELED}}, "stl10_binary.tar.gz"),
    "SVHN": (_BY_NAME, "train_32x32.mat and test_32x32.mat"),
    "USPS": (_BY_FLAG, "usps.bz2 and usps.t.bz2"),
}
NAMES = tuple(_SETS)
_SECONDS = 30.0  # without an answer of the network


def read(name: str, root: str | Path | None = None) -> Incoming:
    """Both splits (and STL10's unlabelled images), as PNG of exactly torchvision's pixels.

    Args:
        name: One of `NAMES`.
        root: The folder torchvision calls root; by default ~/.cache/graft/torchvision.

    Raises:
        GraftError: the name is unknown, the files are damaged, or they are absent and cannot be downloaded.
    """
    if name not in _SETS:
        raise GraftError(f"torchvision:{name} is not known", f"one of: {', '.join(NAMES)}")
    folder = Path(root or DEFAULT_ROOT).expanduser().resolve()
    splits = {split: _load(name, folder, arguments) for split, arguments in _SETS[name][0].items()}
    total = sum(len(dataset) for dataset in splits.values())
    return Incoming(_images(name, splits), total)


def _images(name: str, splits: Mapping[str, Any]) -> Iterator[tuple[PurePosixPath, bytes]]:
    for split, dataset in splits.items():
        folders = class_folders(_classes(dataset), f"torchvision:{name}")
        for index in range(len(dataset)):
            image, label = dataset[index]
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=1)  # lossless at any level; this one is quick
            place = (UNLABELED,) if split == UNLABELED else (split, folders[label])
            yield PurePosixPath(*place, f"{index:06d}.png"), buffer.getvalue()


def _classes(dataset: Any) -> Sequence[str]:
    """Class names by label; digits are called "0" to "9" in all sets, so that sets can be paired."""
    names = getattr(dataset, "classes", None) or [str(digit) for digit in range(10)]
    return [name.split(" - ")[0] for name in names]


def _load(name: str, root: Path, arguments: Mapping[str, Any]) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        return kind(root, **arguments, download=False)
    except Exception as error:  # of any type: torchvision parses without checking
        if not _is_absence(error):
            raise GraftError(
                f"the files of {name} in {root} cannot be read: {error}",
                f"remove them and {_placing(name, root)}",
            ) from error
    return _downloaded(kind, name, root, arguments)


def _is_absence(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or "not found" in str(error)


def _downloaded(kind: Any, name: str, root: Path, arguments: Mapping[str, Any]) -> Any:
    try:
        with _network_timeout(_SECONDS):
            return kind(root, **arguments, download=True)
    except (RuntimeError, OSError) as error:
        raise GraftError(
            f"{name} is not in {root}, and downloading it failed: {error}", _placing(name, root)
        ) from error


def _placing(name: str, root: Path) -> str:
    return f"put {_SETS[name][1]} into {root} (--root names another folder) and import again"


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
