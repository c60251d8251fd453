import math

from hypothesis import given
from hypothesis import strategies as st

from graft.training.schedules import annealed, cosine, reversal

progress = st.floats(0, 1)


def test_known_values() -> None:
    assert cosine(0.1) == 1.0
    assert math.isclose(cosine(0.55), 0.5)
    assert math.isclose(cosine(1.0), 0.0, abs_tol=1e-12)
    assert reversal(0) == 0
    assert math.isclose(reversal(1), 0.9999092042625951)  # 2 / (1 + e^-10) - 1
    assert math.isclose(annealed(1), 11**-0.75)


@given(progress)
def test_factors_stay_between_nothing_and_the_peak(p: float) -> None:
    assert 0 <= cosine(p) <= 1 + 1e-12
    assert 0 < annealed(p) <= 1
    assert 0 <= reversal(p) < 1


@given(progress, progress)
def test_reversal_only_grows_and_annealing_only_falls(p: float, q: float) -> None:
    low, high = sorted((p, q))
    assert reversal(low) <= reversal(high)
    assert annealed(low) >= annealed(high)
