"""Step: one of several equal shares of the features, made into the store that the shares have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.precision import computing_in
from graft.errors import GraftError
from graft.files import write_json
from graft.images.table import read_table
from graft.params import FeatureExtraction, parse
from graft.steps.feature_extraction import extract_share


def run(
    *,
    feature_extraction: Mapping[str, Any],
    number: int,
    count: int,
    images: Path,
    views: Path,
    network: Path,
    made: Path,
) -> None:
    """See components/feature_shard.py."""
    params = parse(FeatureExtraction, feature_extraction, "params: feature_extraction")
    if params.store is None:
        raise GraftError(
            f"{count} tasks extract features, but feature_extraction.store names no place for them",
            "set it to s3://bucket/prefix, or to a folder on a volume that all pods share",
        )
    with computing_in(params.precision):
        share = slice(number, None, count)
        *_, vectors = extract_share(params, read_table(images), views, network, share)
    write_json(made, {"share": number, "of": count, "rows": len(vectors), "store": params.store})
