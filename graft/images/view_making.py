"""Views of images in memory: decoded to squares, and augmented."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from graft.errors import GraftError
from graft.images.augmentation import augment_by, policy
from graft.images.decoding import BrokenImage, to_pixels
from graft.images.draws import uniforms
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.params import Augmentation

# Views are made before the backbone is known, so at a size that serves most: 256 pixels is what
# ImageNet networks resize the short side to before they crop 224.
MOST_SIDE = 256


def decode_squares(pool: ThreadPoolExecutor, table: ImageTable, index: pd.Index) -> list[np.ndarray]:
    """The centre squares that views are made from, uint8 (3, side, side) each.

    Raises:
        GraftError: an image cannot be decoded any more.
    """

    def square(content: bytes, path: str, side: int) -> np.ndarray:
        try:
            return to_pixels(content, Preprocessing(side, side))
        except BrokenImage as broken:
            problem = f"{path} in the image table {table.path} cannot be decoded: {broken.reason}"
            raise GraftError(problem, "run data_validation again") from None

    return list(
        pool.map(square, table.contents(index), table.rows.loc[index, "path"], square_sides(table, index))
    )


def make_views(
    squares: Sequence[np.ndarray], hashes: Sequence[str], view: int, params: Augmentation
) -> list[np.ndarray]:
    """One view of each image.

    Args:
        squares: uint8 (3, side, side) each, of any sides.
        hashes: sha256 of each original's file, in hexadecimal.
        view: Number of the view.
        params: The policy.
    """
    draws = [uniforms(1, (params.seed, view, int(name[:16], 16))) for name in hashes]
    sides = np.array([square.shape[-1] for square in squares])
    made: dict[int, np.ndarray] = {}
    for side in np.unique(sides).tolist():
        here = np.flatnonzero(sides == side)
        batch = torch.from_numpy(np.stack([squares[k] for k in here.tolist()]))
        chances = np.concatenate([draws[k] for k in here.tolist()])
        augmented = augment_by(policy(params, Preprocessing(side, side)), batch, chances)
        made |= dict(zip(here.tolist(), augmented.numpy(), strict=True))
    return [made[k] for k in range(len(squares))]


def square_sides(table: ImageTable, index: pd.Index) -> np.ndarray:
    """Side of each image's square, pixels: its own shorter side, or 256 where that is more."""
    return table.rows.loc[index, ["width", "height"]].min(axis=1).clip(upper=MOST_SIDE).to_numpy()
