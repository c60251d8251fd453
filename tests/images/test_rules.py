"""Each rule can fail, and says what was observed, what is allowed and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from graft.images.expectations import check
from graft.images.rules import COLUMNS, describe, rules
from graft.params import Data


def facts(number: int = 40, **columns: Any) -> pd.DataFrame:
    """A frame that keeps every rule, with some columns replaced."""
    frame = pd.DataFrame(
        {
            "path": [f"ant/{n}.png" for n in range(number)],
            "label": ["ant", "bee"] * (number // 2),
            "spelling": ["ant", "bee"] * (number // 2),
            "split": "train",
            "domain": "",
            "width": 32.0,
            "height": 32.0,
            "shorter_side": 32.0,
            "pixels": 1024.0,
            "mode": "RGB",
            "sha256": "0" * 64,
            "phash": "0" * 16,
            "imbalance": 1.0,
        }
    )
    shares = ["broken", "conflict", "duplicate", "near_duplicate", "near_conflict", "leak"]
    counted = ["class_images", "class_train", "class_test", "domain_train", "domain_val", "domain_test"]
    return frame.assign(**dict.fromkeys(shares, 0.0), **dict.fromkeys(counted, 9.0)).assign(**columns)


def failed(frame: pd.DataFrame, folder: Path, **params: Any) -> dict[str, tuple[str, str]]:
    results = check(frame, rules(Data(**params), frame, ("ant", "bee")), folder)
    assert all(result["fix"] for result in results)
    return {r["rule"]: (r["severity"], r["observed"]) for r in results if not r["passed"]}


def some(value: Any, otherwise: Any, count: int, number: int = 40) -> list[Any]:
    return [value] * count + [otherwise] * (number - count)


def test_a_good_frame_keeps_all_rules(tmp_path: Path) -> None:
    assert set(facts()) == set(COLUMNS)
    assert failed(facts(), tmp_path) == {}


def test_every_rule_can_fail(tmp_path: Path) -> None:
    frame = facts(
        label=some("Ant", "bee", 1),
        spelling=some("ant", "bee", 1),
        split=some("training", "train", 1),
        domain=some("moon", "", 1),
        shorter_side=some(7.0, 32.0, 1),
        pixels=some(1e9, 9.0, 1),
        mode=some("F", "RGB", 1),
        sha256=some("abc", "0" * 64, 1),
        imbalance=some(21.0, 1.0, 1),
        broken=some(1.0, 0.0, 2),
        conflict=some(1.0, 0.0, 4),
        duplicate=some(1.0, 0.0, 10),
        near_duplicate=some(1.0, 0.0, 10),
        near_conflict=some(1.0, 0.0, 2),
        leak=some(1.0, np.nan, 1),
        class_images=some(1.0, 9.0, 1),
        class_train=some(0.0, 9.0, 1),
        class_test=some(0.0, 9.0, 1),
        domain_train=some(0.0, 9.0, 1),
        domain_val=some(0.0, 9.0, 1),
        domain_test=some(0.0, 9.0, 1),
        surplus=1,
    )
    params = {"max_leak_fraction": 0.0}
    found = failed(frame, tmp_path, **params)
    assert set(found) == {rule.name for rule in rules(Data(), frame, ("ant", "bee"))}
    assert {name for name, (severity, _) in found.items() if severity == "warning"} == {
        "test images of the smallest class",
        "near-duplicates",
        "near-duplicates with different labels",
    }
    assert found["broken files"] == ("critical", "2 of 40 (5.0%)")
    assert found["training images that are in the test set too"][1] == "1 of 1 (100.0%)"
    assert found["colour modes"][1] == "1 unlike: F"
    assert found["largest class over smallest"][1] == "21"
    assert "Ant" in found["label spelling"][1]


@pytest.mark.parametrize(("params", "passes"), [({}, True), ({"max_broken_fraction": 0.0}, False)])
def test_one_broken_file_fails_a_small_set_only_if_none_is_allowed(
    tmp_path: Path, params: dict[str, float], passes: bool
) -> None:
    frame = facts(broken=some(1.0, 0.0, 1))
    assert ("broken files" not in failed(frame, tmp_path, **params)) == passes


def test_the_data_docs_open_without_a_network(tmp_path: Path) -> None:
    failed(facts(broken=some(1.0, 0.0, 2)), tmp_path)
    pages = {page.name: page.read_text() for page in tmp_path.iterdir()}
    assert set(pages) == {"validation.html", "expectations.html"}
    assert "mean must be less than or equal to" in pages["validation.html"]
    for page in pages.values():
        assert "<script" not in page
        assert "http" not in page.replace("http-equiv", "")
    assert 'href="../index.html"' in pages["validation.html"]
    assert 'href="expectations.html' in pages["validation.html"]


def test_what_is_counted() -> None:
    files = pd.DataFrame(
        {
            "path": list("abcdefgh"),
            "label": ["ant", "ant", "ant", "bee", "Bee", "bee", None, "ant"],
            "split": "",
            "domain": ["target"] * 7 + ["source"],
            "width": 10,
            "height": [20, 5, 20, 20, 20, np.nan, 20, 20],
            "mode": "RGB",
            "sha256": "0" * 64,
            "conflict": False,
            "reason": [None] * 5 + ["zero bytes", None, None],
        }
    )
    taken = pd.DataFrame(
        {
            "file": [0, 1, 2, 3, 4, 6, 7],
            "split": ["train", "train", "test", "train", "val", "unlabeled", "train"],
            "phash": np.array([2**64 - 1] * 7, np.uint64),
            "duplicate_of": [None, "a", None, None, None, None, None],
            "near_duplicate_of": None,
            "leak": [False, False, False, True, False, False, False],
            "near_conflict": False,
        }
    )
    frame = describe(files, taken).fillna(-1)
    assert list(frame) == list(COLUMNS)
    assert frame["phash"].tolist() == ["f" * 16] * 5 + [-1] + ["f" * 16] * 2
    assert frame["spelling"].tolist() == ["ant", "ant", "ant", "bee", "bee", "bee", -1, "ant"]
    assert frame["broken"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert frame["duplicate"].tolist() == [0, 1, 0, 0, 0, -1, 0, 0]
    assert frame["leak"].tolist() == [0, 0, -1, 1, 0, -1, 0, 0]
    assert frame["shorter_side"].tolist()[:2] == [10, 5]
    assert frame["class_images"].tolist() == [3, 3, 3, 1, 1, 1, -1, 1]
    assert frame["imbalance"].tolist() == [1, 1, 1, 3, 3, 3, -1, 1]
    assert frame["class_train"].tolist() == [2, 2, 2, 0, 0, 0, -1, 2]
    assert frame["class_test"].tolist() == [1, 1, 1, 0, 0, 0, -1, 1]
    assert frame["domain_train"].tolist() == [1, 1, 1, 1, 1, 1, -1, 1]
    assert frame["domain_val"].tolist() == [1, 1, 1, 1, 1, 1, -1, 0]
    assert frame["domain_test"].tolist() == [1, 1, 1, 1, 1, 1, -1, -1]
