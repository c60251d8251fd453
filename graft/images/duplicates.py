"""Images that are equal, or look the same: re-encoded, resized, or nearly so.

Candidates share most bits of a perceptual hash; a candidate counts only if its small colour copy is
nearly the same too, because tiny images of the same kind (handwritten ones) often share the hash.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]
SIDE = 32  # of the picture that is hashed
SMALL = 16  # side of the colour copy that confirms
MAX_BITS = 4  # of 64 that may differ: 9 in 10 copies at quarter size, all re-encoded ones
BANDS = 5  # MAX_BITS differing bits leave at least one of MAX_BITS + 1 bands equal
MAX_DIFFERENCE = 0.05  # mean absolute difference, of the copy's own standard deviation
NEIGHBOURS = 256  # compared per image and band: more only share a band among a million images
TWINS = 8  # of those with the same hash, so that thousands of blank images stay cheap
CHUNK = 65536  # pairs confirmed at once
RANK = {"test": 0, "val": 1, "train": 2, "unlabeled": 3}  # which of equal images is kept


def reduce(image: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """An RGB image as grey (32, 32) for the hash and as colour (16, 16, 3) to confirm."""
    picture = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)  # Pillow's is antialiased
    small = picture.resize((SMALL, SMALL), Image.Resampling.BOX)
    return np.asarray(picture.convert("L")), np.asarray(small)


def perceptual_hash(grey: npt.NDArray[np.uint8]) -> Hashes:
    """Signs of the 8 x 8 lowest frequencies against their median (Zauner 2010, pHash).

    Args:
        grey: (N, 32, 32).

    Returns:
        (N,), one bit per frequency.
    """
    low = dctn(grey.astype(np.float32), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)  # the mean brightness has no say
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def near_pairs(shas: pd.Series, hashes: Hashes, small: npt.NDArray[np.uint8]) -> Pairs:
    """Pairs of images that look the same; of equal images the first stands for all.

    Args:
        shas: (N,) of the files' content.
        hashes: (N,) from `perceptual_hash`.
        small: (N, 16, 16, 3) from `reduce`.

    Returns:
        (P, 2) positions, the smaller first, sorted.
    """
    first = np.flatnonzero(~shas.duplicated())
    none = np.empty((0, 2), np.int64)
    candidates = first[np.unique(np.concatenate([none, *_candidates(hashes[first])]), axis=0)]
    chunks = (candidates[start : start + CHUNK] for start in range(0, len(candidates), CHUNK))
    return np.concatenate([none, *(_confirmed(chunk, small) for chunk in chunks)])


def groups(shas: pd.Series, pairs: Pairs) -> pd.Series:
    """For each image the smallest sha256 among those it is linked to, over any number of links."""
    codes, unique = pd.factorize(shas)
    ones = np.ones(len(pairs))
    graph = coo_matrix((ones, (codes[pairs[:, 0]], codes[pairs[:, 1]])), shape=(len(unique),) * 2)
    member = connected_components(graph, directed=False)[1]
    smallest = pd.Series(np.asarray(unique)).groupby(member).min()
    return pd.Series(smallest.to_numpy()[member][codes], index=shas.index)


def conflicts(frame: pd.DataFrame) -> pd.Series:
    """For each labelled image the path of an equal one with another label; NaN where there is none.

    Args:
        frame: Columns path, sha256 and label (missing where unlabelled).
    """
    labelled = frame[frame["label"].notna() & frame["sha256"].notna()].sort_values("path")
    labelled = labelled[labelled.duplicated("sha256", keep=False)]  # few, and groups take their time
    found = {}
    for _, equal in labelled.groupby("sha256"):
        if equal["label"].nunique() > 1:
            for row in equal.itertuples():
                found[row.Index] = equal.loc[equal["label"] != row.label, "path"].iloc[0]
    return pd.Series(found, dtype=object).reindex(frame.index)


def flags(frame: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """Columns duplicate_of, near_duplicate_of, leak, and near_conflict (looks like one of another class).

    Of equal images the one in test, else val, else train is kept, the first by path. An image leaks
    if it lies outside test and equals, or looks the same as, one in test (of any domain).

    Args:
        frame: Columns path, sha256, split, label; index 0 .. N - 1.
        pairs: From `near_pairs`.
    """
    order = pd.DataFrame({"rank": frame["split"].map(RANK), "path": frame["path"]})
    place = order.sort_values(["rank", "path"]).index
    position = pd.Series(np.arange(len(frame)), index=place).sort_index()  # 0: the most important
    best = position.groupby(frame["sha256"]).transform("min")
    paths = frame["path"].to_numpy()[place]
    near = _best_neighbour(best.to_numpy(), pairs)
    near = pd.Series(near).groupby(frame["sha256"]).transform("min").to_numpy()  # for all equal copies
    leading = np.minimum(best.to_numpy(), near)
    tests = int((frame["split"] == "test").sum())  # they come first
    return pd.DataFrame(
        {
            "duplicate_of": pd.Series(paths[best], index=frame.index).where(best != position),
            "near_duplicate_of": pd.Series(paths[leading], index=frame.index).where(near < best),
            "leak": (frame["split"] != "test") & (leading < tests),
            "near_conflict": frame.index.isin(_disagreeing(frame["label"], pairs)),
        }
    )


def _disagreeing(labels: pd.Series, pairs: Pairs) -> Pairs:
    codes = pd.factorize(labels)[0]  # -1: no label
    first, second = codes[pairs[:, 0]], codes[pairs[:, 1]]
    return np.unique(pairs[(first != second) & (first >= 0) & (second >= 0)])


def _best_neighbour(best: Pairs, pairs: Pairs) -> Pairs:
    """For each image the smallest position among its neighbours' kept ones; N where none."""
    near = np.full(len(best), len(best))
    np.minimum.at(near, pairs[:, 0], best[pairs[:, 1]])
    np.minimum.at(near, pairs[:, 1], best[pairs[:, 0]])
    return near


def _candidates(hashes: Hashes) -> Iterator[Pairs]:
    """Pairs with at most MAX_BITS differing bits, found by sorting on one band of bits at a time."""
    width = np.uint64(-(-64 // BANDS))
    for band in range(BANDS):
        key = (hashes >> (width * np.uint64(band))) & ((np.uint64(1) << width) - np.uint64(1))
        order = np.lexsort((hashes, key))
        start = np.arange(len(hashes))
        for offset in range(1, NEIGHBOURS + 1):
            start = start[start + offset < len(hashes)]
            start = start[key[order[start]] == key[order[start + offset]]]
            if not len(start):
                break
            pairs = np.sort(np.stack([order[start], order[start + offset]], axis=1), axis=1)
            bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
            yield pairs[(bits <= MAX_BITS) & ((bits > 0) | (offset <= TWINS))]


def _confirmed(pairs: Pairs, small: npt.NDArray[np.uint8]) -> Pairs:
    first, second = (small[pairs[:, side]].astype(np.int16) for side in (0, 1))
    difference = np.abs(first - second).mean(axis=(1, 2, 3))
    spread = np.minimum(first.std(axis=(1, 2, 3)), second.std(axis=(1, 2, 3)))
    return pairs[difference <= MAX_DIFFERENCE * np.maximum(spread, 1)]
