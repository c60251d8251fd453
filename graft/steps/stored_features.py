"""Features of a table's images and views: those that the feature store keeps, and the others made now."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from graft.backbones.features import extractor
from graft.backbones.precision import number_format
from graft.backbones.trunk import BackboneConfig, Trunk
from graft.errors import GraftError
from graft.images.decoding import DECODERS
from graft.images.loading import load_images
from graft.images.table import ImageTable
from graft.images.views import load_view_pixels, read_view_rows
from graft.params import FeatureExtraction
from graft.params.base import in_bytes
from graft.progress import say
from graft.storage.rows import add_rows, fetch_rows

FORMAT = "graft features 1"
CHUNK_BYTES = 256 * 2**20  # of pixels in memory at once, and what a kill costs
FRAME = ["sha256", "domain", "split", "label", "view"]


@dataclass(frozen=True)
class FeatureStore:
    """Features by what they are made of, so that none is made twice.

    A row's key is the SHA-256 of an image's file, or of a view's pixels. A group is one network with its
    weights, layers and preprocessing, in one number format. The engine is not part of it: what one
    computes differs from what another does by rounding, and the first one's result is kept.

    Attributes:
        place: A folder, or s3://bucket/prefix; None keeps nothing.
        group: Of the rows.
        limit: Of the whole store, bytes.
    """

    place: str | None
    group: str
    limit: int

    def fetch(self, keys: list[str], out: np.ndarray) -> np.ndarray:
        """Fill in the rows (N, F) that are there; bool (N,) of those."""
        if self.place is None:
            return np.zeros(len(keys), bool)
        try:
            found = fetch_rows(self.place, self.group, keys, out)
        except GraftError as error:  # it saves time, and nothing depends on it
            say(f"the feature store {self.place} is not used: {error.problem}")
            return np.zeros(len(keys), bool)
        if found.any():
            say(f"features of {found.sum()} of {len(keys)} images and views are in {self.place}")
        return found

    def add(self, keys: list[str], rows: np.ndarray) -> None:
        """Keep rows (N, F)."""
        if self.place is not None:
            add_rows(self.place, self.group, keys, rows, limit=self.limit)


def open_store(params: FeatureExtraction, trunk: Trunk, config: BackboneConfig, sha256: str) -> FeatureStore:
    """The store that params name, for this network.

    Args:
        params: `store` and `store_limit`.
        trunk: Decides the number format by its device.
        config: Structure and preprocessing.
        sha256: Of the backbone's weights file.
    """
    home = os.environ.get("GRAFT_HOME")
    place = params.store or (str(Path(home).absolute() / "features") if home else None)
    facts = {
        "format": [FORMAT, *DECODERS],
        "weights": sha256,
        "network": config.name,
        "structure": config.structure,
        "preprocessing": config.preprocessing.to_dict(),
        "computed in": str(number_format(next(trunk.parameters()).device)),
    }
    group = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return FeatureStore(place, group, in_bytes(params.store_limit))


def features_of(
    table: ImageTable,
    index: pd.Index,
    views: Path | None,
    trunk: Trunk,
    config: BackboneConfig,
    params: FeatureExtraction,
    store: FeatureStore,
    share: slice = slice(None),
) -> tuple[pd.DataFrame, np.ndarray]:
    """Features of images and, behind them, of views; only what the store lacks is decoded and computed.

    Args:
        table: Where the images are.
        index: Their rows.
        views: Folder of the views; None for images alone.
        trunk, config: The network.
        params: The section.
        store: Where features are looked up and kept.
        share: Which of them all, images first; by default every one.

    Returns:
        sha256, domain, split, label and view (0: the image itself) of each, and float32 (N, F).
    """
    frame = table.rows.loc[index, FRAME[:-1]].assign(view=0)
    keys = frame["sha256"].tolist()
    if views is not None:
        rows = read_view_rows(views)
        keys += [f"view {digest}" for digest in rows["digest"]]
        frame = pd.concat([frame, rows[FRAME].assign(view=rows["view"] + 1)])
    mine = np.arange(len(keys))[share]
    vectors = np.empty((len(mine), config.num_features), np.float32)
    missing = np.flatnonzero(~store.fetch([keys[i] for i in mine], vectors))
    run = extractor(trunk, config, params.batch_size, engine=params.engine, images=len(missing))
    images = len(index)

    def load_some(at: np.ndarray) -> Tensor:
        if at[0] < images:
            return load_images(table, index[at], config.preprocessing).pixels
        assert views is not None
        return load_view_pixels(views, config.preprocessing, at - images)[0]

    of_images = mine[missing] < images
    for what, part in (("images", missing[of_images]), ("views", missing[~of_images])):
        for at, span in _chunks(part, config):
            vectors[at] = run(load_some(mine[at]), f"features of {what}{span}").numpy()
            store.add([keys[i] for i in mine[at]], vectors[at])
    return frame.iloc[share].reset_index(drop=True), vectors


def _chunks(positions: np.ndarray, config: BackboneConfig) -> Iterator[tuple[np.ndarray, str]]:
    """Positions (M,) of as many images as may be in memory at once, and which these are, in words."""
    size = max(1, CHUNK_BYTES // (3 * config.preprocessing.resize_size**2))
    for start in range(0, len(positions), size):
        chunk = positions[start : start + size]
        span = f" {start + 1} to {start + len(chunk)} of {len(positions)}" if len(positions) > size else ""
        yield chunk, span
