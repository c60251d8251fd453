"""What a classifier costs."""

from __future__ import annotations

import time
from typing import Any, cast

from graft.backbones.classifier import Classifier
from graft.backbones.cost import latency


class _Disturbed:
    """Answers in 2 ms, but while something else has the machine in 30: two calls of three."""

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, images: list[Any]) -> None:
        self.calls += 1
        time.sleep(0.002 if self.calls % 3 == 0 else 0.03)


def test_what_else_the_machine_does_is_no_latency_of_the_model() -> None:
    (taken,) = latency([cast(Classifier, _Disturbed())], b"")
    assert 2 <= taken < 30


def test_calls_end_with_their_time_once_three_are_timed() -> None:
    slow = _Disturbed()
    latency([cast(Classifier, slow)], b"", limit=0.0)
    assert slow.calls == 5
