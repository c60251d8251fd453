"""Copies are found however they were saved; different images, even tiny digits, are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.images.decoding import decode
from graft.images.duplicates import (
    MAX_BITS,
    Pairs,
    _candidates,
    conflicts,
    flags,
    groups,
    near_pairs,
    perceptual_hash,
    reduce,
)

Photo = Callable[..., Image.Image]


def pairs_of(images: list[Image.Image]) -> list[list[int]]:
    grey, small = (np.stack(parts) for parts in zip(*map(reduce, images), strict=True))
    shas = pd.Series([str(number) for number in range(len(images))])
    return near_pairs(shas, perceptual_hash(grey), small).tolist()


def saved(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return decode(stream.getvalue())


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, 90),
        lambda image: saved(image, 50),
        lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
        lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS),
        lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB"),
    ],
)
def test_a_copy_is_found(photo: Photo, change: Callable[[Image.Image], Image.Image]) -> None:
    images = [photo(seed, (320, 240)) for seed in range(20)]
    assert pairs_of([*images, change(images[7])]) == [[7, 20]]


def test_different_photos_are_not_pairs(photo: Photo) -> None:
    assert pairs_of([photo(seed) for seed in range(300)]) == []


def test_handwritten_digits_are_not_pairs() -> None:
    from sklearn.datasets import load_digits

    scans = (load_digits().images * 255 / 16).astype(np.uint8)
    assert pairs_of([Image.fromarray(scan).convert("RGB") for scan in scans]) == []


def test_another_colour_is_another_image(photo: Photo) -> None:
    blue = Image.merge("RGB", photo(1).split()[::-1])
    assert pairs_of([photo(1), blue]) == []


def test_thousands_of_equal_hashes_stay_cheap() -> None:
    blank = [Image.new("RGB", (32, 32), "white")] * 2000
    shas = pd.Series(map(str, range(2000)))
    grey, small = (np.stack(parts) for parts in zip(*map(reduce, blank), strict=True))
    pairs = near_pairs(shas, perceptual_hash(grey), small)
    assert groups(shas, pairs).nunique() == 1
    assert near_pairs(pd.Series(["same"] * 2000), perceptual_hash(grey), small).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_no_close_pair_of_hashes_is_missed(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 6, dtype=np.uint64)
    flips = rng.integers(0, 64, (number, 5), dtype=np.uint64)
    flipped = base[rng.integers(0, 6, number)]
    for column in range(rng.integers(0, 6)):
        flipped = flipped ^ (np.uint64(1) << flips[:, column])
    found = {tuple(pair) for pairs in _candidates(flipped) for pair in pairs.tolist()}
    differing = np.bitwise_count(flipped[:, None] ^ flipped[None, :])
    close = np.triu((differing <= MAX_BITS) & (differing > 0))
    assert found >= {(int(i), int(j)) for i, j in np.argwhere(close)}
    assert all(differing[pair] <= MAX_BITS for pair in found)
    equal = np.triu(differing == 0, 1)
    assert all(any(i in pair for pair in found) for i, _ in np.argwhere(equal))


def test_groups_are_named_by_their_smallest_member() -> None:
    shas = pd.Series(["d", "b", "c", "a", "b"])
    assert groups(shas, np.array([[0, 1], [1, 2]])).tolist() == ["b", "b", "b", "a", "b"]
    assert groups(shas, np.empty((0, 2), int)).tolist() == shas.tolist()


def images(*rows: tuple[str, str, str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "sha256", "split", "label"])


NONE: Pairs = np.empty((0, 2), np.int64)


def test_of_equal_images_the_most_important_is_kept() -> None:
    frame = images(
        ("a", "1", "unlabeled", None),
        ("b", "1", "train", "ant"),
        ("c", "1", "train", "ant"),
        ("d", "2", "train", "ant"),
    )
    found = flags(frame, NONE)
    assert found["duplicate_of"].fillna("").tolist() == ["b", "", "b", ""]
    assert not found["leak"].any()
    assert found["near_duplicate_of"].isna().all()


def test_what_equals_or_resembles_a_test_image_leaks() -> None:
    frame = images(
        ("a", "1", "train", "ant"),
        ("b", "1", "test", "ant"),
        ("c", "2", "val", "ant"),
        ("d", "2", "unlabeled", None),
        ("e", "3", "test", "ant"),
        ("f", "4", "train", "ant"),
        ("g", "5", "train", "bee"),
    )
    found = flags(frame, np.array([[2, 4], [5, 6]]))  # c like e, f like g
    assert found["leak"].tolist() == [True, False, True, True, False, False, False]
    assert found["duplicate_of"].fillna("").tolist() == ["b", "", "", "c", "", "", ""]
    assert found["near_duplicate_of"].fillna("").tolist() == ["", "", "e", "e", "", "", "f"]
    assert found["near_conflict"].tolist() == [False] * 5 + [True, True]


def test_equal_images_with_different_labels_are_named() -> None:
    frame = images(("a", "1", "", "ant"), ("b", "1", "", "bee"), ("c", "1", "", None), ("d", "2", "", "ant"))
    assert conflicts(frame).fillna("").tolist() == ["b", "a", "", ""]
