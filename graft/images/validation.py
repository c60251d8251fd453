"""The step data_validation: a data folder becomes an image table, or a named fault with evidence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from graft.errors import GraftError
from graft.files import folder_md5, whole_folder
from graft.images.duplicates import flags, groups, near_pairs, perceptual_hash
from graft.images.evidence import failure_table, write_evidence
from graft.images.expectations import check
from graft.images.inspection import Pixels, inspect
from graft.images.rules import describe, rules
from graft.images.scanning import Scan, scan
from graft.images.splitting import assign
from graft.images.table import SCHEMA, write_table
from graft.params import Data

LISTED = 1000  # files of one kind in validation.json


def validate(
    folder: Path,
    params: Data,
    images: Path,
    docs: Path,
    *,
    name: str | None = None,
    data_md5: str | None = None,
) -> dict[str, Any]:
    """Check a data folder, and make its image table.

    Args:
        folder: In any of the three layouts (see `scanning`).
        params: Thresholds and split fractions.
        images: Where the image table goes; written only if every critical rule holds.
        docs: Where the evidence goes, in either case: index.html, sheet.png, validation.json,
            broken.csv and great_expectations/.
        name: What people know the folder by, such as the address it came from; None means its path.
        data_md5: `folder_md5` of the folder, where that is known; else every file is read for it.

    Returns:
        A summary: folder, data_md5, files, rows, classes, domains, counts {domain: {split: n}}, broken,
        duplicates, near_duplicates, leaks, ignored, notes, rules, passed.

    Raises:
        GraftError: the folder is in no known layout, or a critical rule fails (evidence is written).
    """
    folder, docs = Path(folder), Path(docs)
    found = scan(folder)
    files, grey, small = inspect(folder, found.files, params)
    taken, notes = _taken(files, grey, small, params)
    summary = _summary(found, files, taken) | {
        "folder": name or str(folder),
        "data_md5": data_md5 or folder_md5(folder),
        "notes": notes,
    }
    with whole_folder(docs) as temporary:
        facts = describe(files, taken)
        suite = rules(params, facts, found.classes)
        summary["rules"] = check(facts, suite, temporary / "great_expectations")
        summary["passed"] = not _failed(summary)
        write_evidence(temporary, folder, files, taken, summary, _findings(found, taken))
    if not summary["passed"]:
        raise _failure(docs, files, summary)
    write_table(images, _records(folder, taken, found), classes=found.classes, data_md5=summary["data_md5"])
    return summary


def _taken(files: pd.DataFrame, grey: Pixels, small: Pixels, params: Data) -> tuple[pd.DataFrame, list[str]]:
    """The usable images with split and flags (`file` is their row in `files`), and notes."""
    taken = files[files["reason"].isna()].reset_index(names="file").drop(columns=["reason", "conflict"])
    taken["phash"] = perceptual_hash(grey[taken["file"]])
    pairs = near_pairs(taken["sha256"], taken["phash"].to_numpy(), small[taken["file"]])
    taken["group"] = groups(taken["sha256"], pairs)
    taken["split"], notes = assign(taken, params)
    return taken.join(flags(taken, pairs)), notes


def _summary(found: Scan, files: pd.DataFrame, taken: pd.DataFrame) -> dict[str, Any]:
    by_split = taken.groupby(["domain", "split"]).size()
    return {
        "files": len(files),
        "rows": len(taken),
        "classes": list(found.classes),
        "domains": list(found.domains),
        "counts": {domain: by_split[domain].to_dict() for domain in by_split.index.unique("domain")},
        "broken": len(files) - len(taken),
        "duplicates": int(taken["duplicate_of"].notna().sum()),
        "near_duplicates": int(taken["near_duplicate_of"].notna().sum()),
        "leaks": int(taken["leak"].sum()),
        "ignored": len(found.ignored),
    }


def _findings(found: Scan, taken: pd.DataFrame) -> dict[str, Any]:
    """Files by what was found about them, at most LISTED of each."""

    def listed(flag: pd.Series, *columns: str) -> list[Any]:
        return taken.loc[flag, ["path", *columns]].head(LISTED).to_dict("records")

    return {
        "duplicate_files": listed(taken["duplicate_of"].notna(), "duplicate_of"),
        "near_duplicate_files": listed(taken["near_duplicate_of"].notna(), "near_duplicate_of"),
        "leaking_files": listed(taken["leak"], "split"),
        "near_duplicates_with_different_labels": listed(taken["near_conflict"], "label"),
        "ignored_files": list(found.ignored[:LISTED]),
    }


def _failed(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for rule in summary["rules"] if not rule["passed"] and rule["severity"] == "critical"]


def _failure(docs: Path, files: pd.DataFrame, summary: dict[str, Any]) -> GraftError:
    failed = _failed(summary)
    count = "a rule" if len(failed) == 1 else f"{len(failed)} rules"
    problem = f"{summary['folder']} breaks {count} of its {len(summary['rules'])}"
    table = failure_table(failed, files)
    fix = "\n       ".join(f"{rule['rule']}: {rule['fix']}" for rule in failed)
    return GraftError(f"{problem}:\n{table}\n  evidence: {docs / 'index.html'}", fix)


def _records(folder: Path, taken: pd.DataFrame, found: Scan) -> Iterator[dict[str, Any]]:
    label = {name: number for number, name in enumerate(found.classes)}
    plain = [name for name in SCHEMA.names if name not in ("image", "label")]
    columns = [taken[name].astype(object).where(taken[name].notna(), None) for name in plain]
    for path, name, *values in zip(taken["path"], taken["label"], *columns, strict=True):
        image = {"bytes": (folder / path).read_bytes(), "path": path}
        yield {"image": image, "label": label.get(name, -1), **dict(zip(plain, values, strict=True))}
