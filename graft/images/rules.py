"""What data_validation expects of a data folder: the rules, their bounds and their fixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from graft.images.decoding import DEEP
from graft.images.importing.layout import UNLABELED
from graft.images.scanning import spelling
from graft.images.table import SPLITS
from graft.params import Data

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", *DEEP)
COLUMNS = tuple(
    """path label spelling split domain width height shorter_side pixels mode sha256 phash broken conflict
    duplicate near_duplicate near_conflict leak class_images imbalance class_train class_test
    domain_train domain_val domain_test""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Rule:
    """One expectation in the user's words.

    Attributes:
        name: What is held, such as "broken files".
        kind: Great Expectations' class.
        arguments: Of that class.
        allowed: The bound, in words.
        fix: What to do when it fails.
        severity: "critical" fails the step; "warning" is reported.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    allowed: str
    fix: str
    severity: str = "critical"


def rules(params: Data, frame: pd.DataFrame, classes: tuple[str, ...]) -> list[Rule]:
    """The suite: schema, labels, counts and balance, sizes, modes, duplicates, leakage, broken files."""
    return [
        *_schema_rules(),
        *_label_rules(params, classes),
        *_size_rules(params),
        *_share_rules(params, frame),
    ]


def describe(files: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """The frame the rules are about: one row per file, flags as 0 and 1, and counts of its class.

    Args:
        files: From `inspection.inspect`.
        taken: The usable ones with split and flags; `file` is their row in `files`.
    """
    flags = taken.set_index("file")[
        ["split", "phash", "duplicate_of", "near_duplicate_of", "leak", "near_conflict"]
    ]
    flags["phash"] = flags["phash"].map("{:016x}".format)  # as a number it would lose bits beside gaps
    facts = files.drop(columns="split").join(flags)
    good = facts["reason"].isna()
    decoded = good | facts["conflict"]
    facts["spelling"] = facts["label"].map(_common_spelling(facts["label"]))
    facts["shorter_side"] = facts[["width", "height"]].min(axis=1)
    facts["pixels"] = facts["width"] * facts["height"]
    facts["broken"] = (~decoded).astype(float)
    facts["conflict"] = facts["conflict"].astype(float).where(decoded)
    facts["duplicate"] = facts["duplicate_of"].notna().astype(float).where(good)
    facts["near_duplicate"] = facts["near_duplicate_of"].notna().astype(float).where(good)
    facts["near_conflict"] = facts["near_conflict"].astype(float)
    facts["leak"] = facts["leak"].astype(float).where(facts["split"] != "test")
    return facts.assign(**_counts(facts))[list(COLUMNS)]


def _counts(facts: pd.DataFrame) -> dict[str, pd.Series]:
    """How many usable images there are of each row's class and domain; missing without a label."""
    split = facts["split"].where(facts["label"].notna())
    kept = (facts["leak"] != 1) & (facts["duplicate"] != 1)
    tested = facts["domain"] != "source"
    # A target may learn from its unlabelled images alone; its labels are for testing then.
    learns, hidden = (
        which.groupby(facts["domain"]).transform("any")
        for which in (split == "train", facts["split"] == UNLABELED)
    )
    free = (facts["domain"] == "target") & ~learns & hidden

    def count(rows: pd.Series, *columns: str) -> pd.Series:
        keys = [facts[column] for column in columns]
        return rows.astype(float).groupby(keys).transform("sum").where(facts["label"].notna())

    class_images = count(split.notna(), "domain", "label")
    return {
        "class_images": class_images,
        "imbalance": class_images.groupby(facts["domain"]).transform("max") / class_images.clip(lower=1),
        "class_train": count((split == "train") & kept, "label"),
        "class_test": count((split == "test") & tested, "label"),
        "domain_train": count((split == "train") & kept, "domain").where(~free),
        "domain_val": count((split == "val") & kept, "domain").where(~free),
        "domain_test": count(split == "test", "domain").where(tested),
    }


def _common_spelling(labels: pd.Series) -> dict[str, str]:
    """Each label -> the way most images write it, case and blanks aside."""
    counts = labels.value_counts().sort_index(kind="stable")
    best = counts.groupby(spelling).idxmax()
    return {label: best[spelling(label)] for label in counts.index}


def _schema_rules() -> list[Rule]:
    def in_set(name: str, column: str, values: tuple[str, ...], fix: str) -> Rule:
        kind, allowed = "ExpectColumnValuesToBeInSet", ", ".join(filter(None, values))
        return Rule(name, kind, {"column": column, "value_set": list(values)}, allowed, fix)

    ours = "this is a fault of graft: please report it"
    sha = {"column": "sha256", "regex": "^[0-9a-f]{64}$"}
    columns = {"column_set": list(COLUMNS), "exact_match": True}
    return [
        Rule("columns", "ExpectTableColumnsToMatchSet", columns, f"{len(COLUMNS)} columns", ours),
        Rule("content digests", "ExpectColumnValuesToMatchRegex", sha, "64 hexadecimal digits", ours),
        in_set("splits", "split", SPLITS, ours),
        in_set("domains", "domain", ("", "source", "target"), ours),
        in_set("colour modes", "mode", MODES, "convert these images to RGB"),
    ]


def _label_rules(params: Data, classes: tuple[str, ...]) -> list[Rule]:
    def least(name: str, column: str, least: int, fix: str, severity: str = "critical") -> Rule:
        arguments = {"column": column, "min_value": least}
        return Rule(name, "ExpectColumnMinToBeBetween", arguments, f"at least {least}", fix, severity)

    spelled = {"column_A": "label", "column_B": "spelling", "ignore_row_if": "either_value_is_missing"}
    equal = {"column": "label", "value_set": list(classes)}
    ratio = {"column": "imbalance", "max_value": params.max_imbalance}
    raised = "or raise data.max_imbalance"
    per_class = (
        f"add images to that class, or lower data.min_images_per_class ({params.min_images_per_class})"
    )
    rename = "rename the class folders so that all say the same"
    gone = "add images to the class that has none left, or remove its folder"
    return [
        Rule("labels", "ExpectColumnDistinctValuesToEqualSet", equal, f"{len(classes)} classes", gone),
        Rule("label spelling", "ExpectColumnPairValuesToBeEqual", spelled, "one spelling per class", rename),
        least("images of the smallest class", "class_images", params.min_images_per_class, per_class),
        least("training images of the smallest class", "class_train", 1, "add training images to that class"),
        least(
            "test images of the smallest class", "class_test", 1, "add test images to that class", "warning"
        ),
        least("training images of a domain", "domain_train", 1, "add images to train/"),
        least(
            "validation images of a domain", "domain_val", 1, "add images to val/, or remove the empty val/"
        ),
        least("test images of a domain", "domain_test", 1, "add images to test/, or remove the empty test/"),
        Rule(
            "largest class over smallest",
            "ExpectColumnMaxToBeBetween",
            ratio,
            f"at most {params.max_imbalance:g}",
            f"add images to the small classes, remove some of the large ones, {raised}",
        ),
    ]


def _size_rules(params: Data) -> list[Rule]:
    kind = "ExpectColumnValuesToBeBetween"
    side, most = params.min_side, params.max_pixels
    smaller, larger = {"column": "shorter_side", "min_value": side}, {"column": "pixels", "max_value": most}
    return [
        Rule("shorter side", kind, smaller, f"at least {side} px", "lower data.min_side"),
        Rule("size", kind, larger, f"at most {most:,} px", "raise data.max_pixels, or shrink these images"),
    ]


def _share_rules(params: Data, frame: pd.DataFrame) -> list[Rule]:
    def share(
        name: str, column: str, most: float, fix: str, severity: str = "critical", free: int = 1
    ) -> Rule:
        counted = max(1, int(frame[column].notna().sum()))
        # One bad image must not fail a small set, unless the user allows none.
        most = max(most, free / counted) if most else 0.0
        arguments = {"column": column, "max_value": most}
        return Rule(name, "ExpectColumnMeanToBeBetween", arguments, f"at most {most:.1%}", fix, severity)

    broken, doubled = params.max_broken_fraction, params.max_duplicate_fraction
    return [
        share("broken files", "broken", broken, "mend or remove them, or raise data.max_broken_fraction"),
        share(
            "equal images with different labels",
            "conflict",
            broken,
            "delete the copy whose label is wrong, or raise data.max_broken_fraction",
            free=2,
        ),
        share("duplicates", "duplicate", doubled, "remove copies, or raise data.max_duplicate_fraction"),
        share("near-duplicates", "near_duplicate", doubled, "look at them in validation.json", "warning"),
        share("near-duplicates with different labels", "near_conflict", 0.0, "look at them", "warning"),
        share(
            "training images that are in the test set too",
            "leak",
            params.max_leak_fraction,
            "remove them from train/, val/ and unlabeled/, or raise data.max_leak_fraction",
        ),
    ]
