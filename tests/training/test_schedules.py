import math

from hypothesis import given
from hypothesis import strategies as st

from graft.training.schedules import SCHEDULES, annealed, constant, cosine, one_cycle, reversal

progress = st.floats(0, 1)


def test_known_values() -> None:
    assert cosine(0.1) == 1.0
    assert math.isclose(cosine(0.55), 0.5)
    assert math.isclose(cosine(1.0), 0.0, abs_tol=1e-12)
    assert math.isclose(one_cycle(0), 1 / 25)
    assert math.isclose(one_cycle(0.15), (1 + 1 / 25) / 2)
    assert math.isclose(one_cycle(0.3), 1.0)
    assert math.isclose(one_cycle(0.65), (1 + 1e-5) / 2)
    assert math.isclose(one_cycle(1), 1e-5)
    assert constant(0) == constant(1) == 1
    assert reversal(0) == 0
    assert math.isclose(reversal(1), 0.9999092042625951)  # 2 / (1 + e^-10) - 1
    assert math.isclose(annealed(1), 11**-0.75)


@given(progress)
def test_factors_stay_between_nothing_and_the_peak(p: float) -> None:
    assert all(0 <= schedule(p) <= 1 + 1e-12 for schedule in SCHEDULES.values())
    assert 0 < annealed(p) <= 1
    assert 0 <= reversal(p) < 1


@given(progress, progress)
def test_reversal_only_grows_and_annealing_only_falls(p: float, q: float) -> None:
    low, high = sorted((p, q))
    assert reversal(low) <= reversal(high)
    assert annealed(low) >= annealed(high)


@given(progress, progress)
def test_one_cycle_rises_to_its_peak_and_then_falls(p: float, q: float) -> None:
    low, high = sorted((p, q))
    if high <= 0.3:
        assert one_cycle(low) <= one_cycle(high) + 1e-12
    elif low >= 0.3:
        assert one_cycle(low) >= one_cycle(high) - 1e-12
