"""Splits that follow from content, so that an image never changes sides as the data grows.

Folders that say train, val and test are believed. What is missing is drawn from a number in [0, 1)
made of the image's sha256 alone. Images that look the same go together: they take the number of the
smallest sha256 among them. The price: when a look-alike with a smaller sha256 is added, that one
group is drawn anew; all other images stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pandas as pd

from graft.errors import GraftError
from graft.params import Data


def fraction(sha256: str, salt: str) -> float:
    """A number in [0, 1) that looks random and depends on content and salt alone."""
    digest = hashlib.sha256(f"{salt}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def drawn(key: str, *, test: float, val: float) -> str:
    """The split of a content: "test" with probability `test`, "val" with `val`, else "train"."""
    if fraction(key, "test") < test:
        return "test"
    return "val" if fraction(key, "val") < val / (1 - test) else "train"


def assign(frame: pd.DataFrame, params: Data) -> tuple[pd.Series, list[str]]:
    """Give every image its split.

    One domain, and the target of two, need train, val and test; a source needs train and val. With
    train and val folders only, val is the held-out set, and a new val is drawn from train.

    Args:
        frame: Columns domain, split (as the folder says, or ""), label (missing where unlabelled) and
            group (from `duplicates.groups`).
        params: Fractions for what is drawn.

    Returns:
        The splits, and sentences about what was done.

    Raises:
        GraftError: the fractions leave a split that is to be drawn without images.
    """
    splits = frame["split"].copy()
    notes: list[str] = []
    labelled = frame[frame["label"].notna()]
    for domain, rows in labelled.groupby("domain"):
        splits[rows.index] = _assign_domain(rows, str(domain), params, notes)
    return splits, notes


def _assign_domain(rows: pd.DataFrame, domain: str, params: Data, notes: list[str]) -> pd.Series:
    splits = rows["split"].copy()
    tested = domain != "source"
    where = f"{domain}: " if domain else ""
    if tested and set(splits) == {"train", "val"}:
        splits[splits == "val"] = "test"
        notes.append(f"{where}there is no test folder, so val is the held-out test set")
    given = set(splits) - {"", "train"}
    open_rows = rows[splits.isin(["", "train"])]
    missing = [name for name in ("test", "val") if name not in given and (tested or name == "val")]
    if open_rows.empty:  # a target whose labels are for testing alone
        missing = []
    shares = _shares(missing, params)
    keys = {key: drawn(key, **shares) for key in open_rows["group"].unique()}
    splits[open_rows.index] = open_rows["group"].map(keys)
    if missing:
        names = " and ".join(f"{name} ({(splits == name).sum()} of {len(open_rows)})" for name in missing)
        notes.append(f"{where}{names} drawn by content hash")
    notes.extend(where + moved for moved in _mended(splits, open_rows, missing))
    return splits


def _shares(missing: list[str], params: Data) -> dict[str, float]:
    shares = {"test": params.test_fraction, "val": params.val_fraction}
    for name in missing:
        if shares[name] == 0:
            problem = f"there is no {name} folder, and data.{name}_fraction is 0"
            raise GraftError(problem, f"set data.{name}_fraction above 0, or add a {name} folder")
    if len(missing) == 2 and sum(shares.values()) >= 1:
        problem = f"data.test_fraction + data.val_fraction = {sum(shares.values()):g} leaves nothing to train"
        raise GraftError(problem, "make their sum less than 1")
    return {name: share if name in missing else 0.0 for name, share in shares.items()}


def _mended(splits: pd.Series, open_rows: pd.DataFrame, missing: list[str]) -> Iterator[str]:
    """Move groups, smallest first, so that every class is in train and no drawn split is empty."""
    for label, rows in open_rows.groupby("label"):
        if not missing or (splits[rows.index] == "train").any():
            continue
        yield _move(splits, open_rows, rows["group"].min(), "train", f"had no image of {label!r}")
    for name in missing:
        if not (splits == name).any():
            current = splits[open_rows.index]
            others = [other for other in missing if other != name]
            spare = _spare(current, open_rows) or _one_of_several(current, open_rows, others)
            if spare is not None:
                yield _move(splits, open_rows, spare, name, "was empty")


def _move(splits: pd.Series, open_rows: pd.DataFrame, group: str, name: str, why: str) -> str:
    moved = open_rows.index[open_rows["group"] == group]
    splits[moved] = name
    return f"{name} {why}, so {len(moved)} image{'s' * (len(moved) != 1)} moved there"


def _spare(splits: pd.Series, open_rows: pd.DataFrame) -> str | None:
    """The smallest group in train whose classes all keep another group there."""
    train = open_rows[splits == "train"]
    others = train.groupby("label")["group"].transform("nunique") > 1
    spare = others.groupby(train["group"]).all()
    return min(spare.index[spare], default=None)


def _one_of_several(splits: pd.Series, open_rows: pd.DataFrame, names: list[str]) -> str | None:
    """The smallest group of a drawn split that has more than one."""
    several = [set(open_rows["group"][splits == name]) for name in names]
    return min((min(groups) for groups in several if len(groups) > 1), default=None)
