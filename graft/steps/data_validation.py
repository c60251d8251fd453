"""Step: a folder of images becomes the image table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.images.validation import validate
from graft.params import Data, parse
from graft.storage.folders import fetch_folder, store_of


def run(*, data: Mapping[str, Any], folder: Path | str, images: Path, docs: Path, work: Path) -> None:
    """See components/data_validation.py; an address is text, a folder of this machine a path."""
    params = parse(Data, data, "params: data")
    if isinstance(folder, Path):
        validate(folder, params, images, docs)
        return
    here = work / "data"
    md5 = fetch_folder(folder, here, store_of(work))
    try:
        validate(here, params, images, docs, name=folder, data_md5=md5)
    except GraftError as error:  # the user knows the address
        raise GraftError(error.problem.replace(str(here), folder), error.fix) from error
