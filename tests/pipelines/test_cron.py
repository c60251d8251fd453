"""Cron expressions on their way to Kubeflow and to Kubernetes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cron import five_fields, six_fields


@pytest.mark.parametrize(
    ("given", "six"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("30 0 3 * * 1", "30 0 3 * * 1"),
        ("*/15 8-18 1,15 JAN-jun mon-FRI", "0 */15 8-18 1,15 JAN-jun mon-FRI"),
        ("0 3 * * 7", "0 0 3 * * 0"),  # Sunday is 0 to Kubeflow
        ("0 3 * * 5-7", "0 0 3 * * 0,5,6"),
        ("0 3 * * 1,7", "0 0 3 * * 0,1"),
        ("5/20 3 ? * *", "0 5/20 3 ? * *"),
    ],
)
def test_plain_cron_becomes_kubeflows(given: str, six: str) -> None:
    assert six_fields(given) == six
    assert six_fields(six) == six


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 3 * *", "there are 4"),
        ("", "there are 0"),
        ("CRON_TZ=Europe/Berlin 0 3 * * 1", "time_zone"),
        ("60 3 * * 1", "the minute lies in 0 to 59"),
        ("0 24 * * 1", "the hour lies in 0 to 23"),
        ("0 3 0 * 1", "the day of month lies in 1 to 31"),
        ("0 3 * 13 1", "the month lies in 1 to 12"),
        ("0 3 * * 8", "the day of week lies in 0 to 7"),
        ("0 3 * * mo", "the day of week lies in"),
        ("0 9-3 * * 1", "ends before it begins"),
        ("0 */0 * * 1", "no positive number"),
        ("@daily", "there are 1"),
    ],
)
def test_a_cron_that_cannot_be_is_refused_by_its_field(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        six_fields(text)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    one = st.one_of(st.just("*"), number.map(str), span)
    stepped = st.tuples(one, st.integers(1, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.lists(st.one_of(one, stepped), min_size=1, max_size=3).map(",".join)


@given(st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), _field(1, 12), _field(0, 7)))
def test_every_plain_cron_survives_the_way_to_kubeflow_and_to_kubernetes(fields: tuple[str, ...]) -> None:
    six = six_fields(" ".join(fields))
    second, *others, days = six.split()
    assert [second, *others] == ["0", *fields[:4]]
    assert "7" not in re.sub("/[0-9]+", "", days)
    assert six_fields(five_fields(six)) == six


def test_sunday_counts_the_same_by_either_number() -> None:
    for written, days in (
        ("0-7/2", "0,2,4,6"),
        ("1-7/3", "0,1,4"),
        ("7/2", "0"),
        ("*/7", "*/7"),
        ("5/1", "5/1"),
    ):
        assert six_fields(f"0 3 * * {written}").split()[5] == days
