"""Do weights do what was published of them? A network's own ImageNet head on labelled photographs."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones import catalogue
from graft.backbones.checkpoint import read_tensors, without_head
from graft.backbones.features import batches, evaluating
from graft.backbones.inputs import stack_pixels
from graft.backbones.network import Network
from graft.backbones.origins import check_sha256, local_file, torchvision_file
from graft.backbones.tensors import misfits, shorten
from graft.backbones.weights import FILES
from graft.errors import GraftError
from graft.images.importing.layout import IMAGE_SUFFIXES
from graft.images.preprocessing import Preprocessing
from graft.progress import track

_WORDNET_ID = re.compile(r"n\d{8}(?!\d)")
_BATCH = 64  # images decoded, and shown to the network, at a time


def top_k(
    name: str,
    weights: str,
    images: str | Path,
    ks: Sequence[int] = (1, 5),
    *,
    sha256: str | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """How often the true class is among the k likeliest, with the preprocessing of the weights.

    Args:
        name: A torchvision classifier, or "timm/" and a name of timm.
        weights: A name of the library such as DEFAULT or IMAGENET1K_V2, a file, or s3://bucket/key.
        images: Folder or .zip; the name of an image, or of a folder it is in, begins with its WordNet id.
        ks: The k.
        sha256: Hexadecimal digits that the file's sha256 must begin with.
        device: Where the network runs; by default the CPU.

    Returns:
        name, weights, sha256 (None where timm fetched them), n (images), left_out (images without a
        WordNet id of ImageNet-1k), preprocessing and, for each k, top{k}, top{k}_low and top{k}_high:
        the share and its 95 % interval (Wilson 1927).

    Raises:
        GraftError: no such architecture, head, weights or images; or an image is broken.
    """
    network, digest = whole_network(name, weights, sha256)
    with _unpacked(Path(images)) as folder:
        paths, labels, left_out = labelled_images(folder)
        module = network.module.to(device or torch.device("cpu"))
        places = _places(module, network.preprocessing, paths, torch.tensor(labels))
    result: dict[str, Any] = {"name": name, "weights": weights, "sha256": digest}
    result |= {"n": len(paths), "left_out": left_out, "preprocessing": network.preprocessing.to_dict()}
    for k in ks:
        right = int((places < k).sum())
        low, high = _interval(right, len(paths))
        result |= {f"top{k}": right / len(paths), f"top{k}_low": low, f"top{k}_high": high}
    return result


def whole_network(name: str, weights: str, sha256: str | None = None) -> tuple[Network, str | None]:
    """A network with its head and its weights, and the sha256 of their file.

    Its `preprocessing` is that of the weights. Every tensor must fit; only what served training
    (auxiliary heads) is left out.

    Raises:
        GraftError: no such architecture, head or weights, a wrong hash, or weights of another network.
    """
    provider = catalogue.provider_of(name)
    if weights in ("random", "pretrain") or weights.startswith("models:/"):
        raise GraftError(
            f"--weights {weights}: these have no head for ImageNet's 1000 classes",
            "give a file, s3://bucket/key, or a name of the library such as DEFAULT",
        )
    if weights.startswith("s3://") or weights.endswith(FILES) or "/" in weights:
        with local_file(weights) as path:
            return _from_file(name, weights, path, sha256, None)
    if provider == "timm":
        if sha256:
            raise GraftError(f"--sha256 {sha256}: timm fetches {weights} itself", "leave it out")
        return catalogue.pretrained_timm(name, weights, with_head=True), None
    members = catalogue.published(name)
    if weights not in members:
        known = ", ".join(members) or "none"
        raise GraftError(f"--weights {weights}: no weights of {name}", f"published: {known}; or give a file")
    preprocessing = catalogue.torchvision_preprocessing(name, members[weights])
    return _from_file(name, weights, torchvision_file(members[weights]), sha256, preprocessing)


def labelled_images(folder: Path) -> tuple[list[Path], list[int], int]:
    """Images with a WordNet id of ImageNet-1k, their class indices, and how many have none.

    The index is the position among the 1000 sorted ids. The file's own name decides before its folder's.

    Raises:
        GraftError: there are no such images.
    """
    index = {wordnet_id: number for number, wordnet_id in enumerate(wordnet_ids())}
    found: list[tuple[Path, int]] = []
    left_out = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        label = index.get(_wordnet_id(path.relative_to(folder)) or _wordnet_id(Path(folder.name)))
        if label is None:
            left_out += 1
        else:
            found.append((path, label))
    if not found:
        raise GraftError(
            f"{folder} has no image whose name, or folder, begins with a WordNet id of ImageNet-1k",
            "name images such as n01440764_tench.jpg, or put them in folders such as n01440764",
        )
    return [path for path, _ in found], [label for _, label in found], left_out


def wordnet_ids() -> list[str]:
    """The 1000 ids of ImageNet-1k, in the order of the classes (which is sorted)."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def _wordnet_id(path: Path) -> str:
    """Of the innermost part of a path that begins with one; "" where none does."""
    return next((found.group() for part in reversed(path.parts) if (found := _WORDNET_ID.match(part))), "")


def _from_file(
    name: str, weights: str, path: Path, sha256: str | None, preprocessing: Preprocessing | None
) -> tuple[Network, str]:
    digest = check_sha256(path, sha256, weights)
    preprocessing = preprocessing or catalogue.preprocessing_of_file(name, digest)
    size = preprocessing.input_size if preprocessing else None
    network = catalogue.create(name, seed=0, input_size=size, with_head=True)
    wrong = misfits(network.module, without_head(read_tensors(path, weights), network.head))
    if wrong:
        raise GraftError(
            f"--weights {weights} does not fit {name} with its head: {shorten(wrong)}",
            f"give weights of {name} that tell ImageNet's 1000 classes apart",
        )
    kept = network.preprocessing if preprocessing is None else preprocessing
    return Network(network.module, network.head, network.num_features, kept, network.provider), digest


@torch.inference_mode()
def _places(module: nn.Module, preprocessing: Preprocessing, paths: list[Path], labels: Tensor) -> Tensor:
    """How many classes are likelier than the true one, int64 (N,)."""
    device = next(module.parameters()).device
    parts: list[Tensor] = []
    starts = range(0, len(paths), _BATCH)
    with evaluating(module):
        for start in track(starts, "photographs", total=len(starts), unit="batches"):
            pixels = stack_pixels(paths[start : start + _BATCH], preprocessing)
            for x in batches(pixels, preprocessing, _BATCH, device):
                parts.append(_rivals(module(x).float().cpu(), labels[start : start + _BATCH]))
    return torch.cat(parts)


def _rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """Classes at least as likely as the true one, which a tie does not favour: (B, C), (B,) -> (B,)."""
    return (logits >= logits.gather(1, labels[:, None])).sum(1) - 1


def _interval(right: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(found.low), float(found.high)


@contextmanager
def _unpacked(images: Path) -> Iterator[Path]:
    """The folder; of a .zip, a temporary one with its content."""
    if images.is_dir():
        yield images
        return
    if not zipfile.is_zipfile(images):
        raise GraftError(f"--images {images} is neither a folder nor a zip archive", "correct the path")
    with tempfile.TemporaryDirectory(prefix="graft-images-") as folder:
        with zipfile.ZipFile(images) as archive:
            archive.extractall(folder)  # it takes ".." and leading "/" off names
        yield Path(folder)
