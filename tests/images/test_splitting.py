"""Splits follow content: stable under growth, together for look-alikes, never empty."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.images.splitting import assign, drawn
from graft.params import Data


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def frame(numbers: list[int], split: str = "", domain: str = "") -> pd.DataFrame:
    """Images of two classes, each its own group."""
    labels = ["ant" if number % 2 else "bee" for number in numbers]
    shas = [sha(number) for number in numbers]
    return pd.DataFrame({"domain": domain, "split": split, "label": labels, "group": shas}, index=shas)


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames)


def counts(splits: pd.Series) -> dict[str, int]:
    return dict(splits.value_counts())


@settings(max_examples=50, deadline=None)
@given(
    first=st.sets(st.integers(0, 10**6), min_size=30, max_size=60),
    more=st.sets(st.integers(0, 10**6), max_size=60),
    split=st.sampled_from(["", "train"]),
)
def test_adding_images_moves_none(first: set[int], more: set[int], split: str) -> None:
    before, notes = assign(frame(sorted(first), split), Data())
    assume(not any("moved" in note for note in notes))  # only tiny sets need mending
    after, _ = assign(frame(sorted(first | more, reverse=True), split), Data())
    assert after[before.index].equals(before)


def test_the_shares_are_those_asked_for() -> None:
    splits, notes = assign(frame(list(range(4000))), Data(test_fraction=0.25, val_fraction=0.1))
    assert counts(splits)["test"] == pytest.approx(1000, abs=90)
    assert counts(splits)["val"] == pytest.approx(400, abs=60)
    assert f"test ({counts(splits)['test']} of 4000)" in notes[0]


def test_a_split_is_a_function_of_the_content() -> None:
    """Fixed for ever: a change of these would move every image of every user."""
    expected = ["val", "test", "val", "test", "train", "train", "val", "train"]
    assert [drawn(sha(number), test=0.3, val=0.3) for number in range(8)] == expected


def test_folders_are_believed() -> None:
    given_splits = together(frame([1, 2, 3, 4], "train"), frame([5, 6], "val"), frame([7, 8], "test"))
    splits, notes = assign(given_splits, Data())
    assert splits.equals(given_splits["split"])
    assert notes == []


def test_a_target_with_labels_for_testing_alone_keeps_them_there() -> None:
    source, target = frame(list(range(100)), domain="source"), frame([101, 102, 103], "test", "target")
    splits, notes = assign(together(source, target), Data())
    assert set(splits[target.index]) == {"test"}
    assert not any(note.startswith("target") for note in notes)


def test_val_is_the_held_out_set_where_there_is_no_test() -> None:
    numbers = list(range(100))
    splits, notes = assign(together(frame(numbers, "train"), frame([200, 201, 203], "val")), Data())
    assert (splits.iloc[100:] == "test").all()
    assert set(splits.iloc[:100]) == {"train", "val"}
    assert notes[0] == "there is no test folder, so val is the held-out test set"
    assert "val (" in notes[1]


def test_val_is_drawn_from_train_where_test_is_given() -> None:
    splits, _ = assign(together(frame(list(range(100)), "train"), frame([200, 201], "test")), Data())
    assert (splits.iloc[100:] == "test").all()
    assert counts(splits)["val"] == pytest.approx(20, abs=12)


def test_a_source_keeps_its_val_and_gets_no_test() -> None:
    source = together(frame(list(range(50)), "train", "source"), frame([60, 61], "val", "source"))
    target = frame(list(range(100, 200)), "", "target")
    splits, _ = assign(together(source, target), Data())
    assert (splits.iloc[50:52] == "val").all()
    assert (splits.iloc[:50] == "train").all()
    assert set(splits.iloc[52:]) == {"train", "val", "test"}
    flat, _ = assign(together(frame(list(range(50)), "", "source"), target), Data())
    assert set(flat.iloc[:50]) == {"train", "val"}


def test_unlabelled_images_stay_unlabelled() -> None:
    unlabelled = frame([300, 301], "unlabeled").assign(label=None)
    splits, _ = assign(together(frame(list(range(50))), unlabelled), Data())
    assert (splits.iloc[50:] == "unlabeled").all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=30, max_size=90))
def test_look_alikes_go_together(members: list[int]) -> None:
    images = frame(list(range(len(members))))
    images["group"] = [sha(member) for member in members]
    splits, _ = assign(images, Data())
    assert (splits.groupby(images["group"]).nunique() == 1).all()


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=6, max_size=12))
@example({0, 1, 205, 54, 87, 9439})  # train has one of each class, and all others fell to val
def test_small_sets_have_every_class_in_train_and_no_empty_split(numbers: set[int]) -> None:
    images = frame(sorted(numbers))
    assume((images["label"].value_counts() >= 2).all() and images["label"].nunique() == 2)
    splits, _ = assign(images, Data())
    assert set(images["label"][splits == "train"]) == {"ant", "bee"}
    assert set(splits) == {"train", "val", "test"}
    again, _ = assign(images.iloc[::-1], Data())
    assert again[splits.index].equals(splits)


def test_moving_is_said() -> None:
    alone = next(n for n in range(1, 1000, 2) if drawn(sha(n), test=0.2, val=0.2) == "test")
    _, notes = assign(together(frame([alone]), frame(list(range(0, 60, 2)))), Data())
    assert "train had no image of 'ant', so 1 image moved there" in notes


@pytest.mark.parametrize(
    ("params", "problem", "fix"),
    [
        ({"test_fraction": 0.0}, "there is no test folder, and data.test_fraction is 0", "add a test folder"),
        ({"val_fraction": 0.0}, "there is no val folder, and data.val_fraction is 0", "above 0"),
        ({"test_fraction": 0.5, "val_fraction": 0.5}, "= 1 leaves nothing to train", "less than 1"),
    ],
)
def test_fractions_that_leave_a_split_empty_are_refused(
    params: dict[str, float], problem: str, fix: str
) -> None:
    with pytest.raises(GraftError, match=problem) as caught:
        assign(frame(list(range(50))), Data.model_validate(params))
    assert fix in caught.value.fix
