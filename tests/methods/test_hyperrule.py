import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graft.methods.hyperrule import plan
from graft.params import FineTuning

sizes, counts = st.sampled_from([28, 32, 128, 224, 384]), st.integers(1, 10**7)


@given(sizes, counts, counts)
@example(128, 117, 126)  # 13 and 12 epochs: 1521 images and 1512
def test_more_images_are_seen_more_often_in_sum_but_each_less_often(size: int, one: int, other: int) -> None:
    few, many = sorted((one, other))
    short, long = (plan(FineTuning(), input_size=size, images=n) for n in (few, many))
    assert short.epochs >= long.epochs >= 3
    rounding = (few + many) / 2  # half an epoch of each: whole epochs cannot do without
    assert short.epochs * few <= long.epochs * many + rounding
    assert short.mixup <= long.mixup


@given(sizes, counts, st.integers(1, 500), st.integers(0, 50), st.floats(1e-6, 1))
def test_what_is_set_is_kept(size: int, images: int, epochs: int, head: int, rate: float) -> None:
    params = FineTuning(epochs=epochs, head_epochs=head, learning_rate=rate, batch_size=7)
    found = plan(params, input_size=size, images=images)
    assert (found.epochs, found.head_epochs, found.learning_rate, found.batch_size) == (epochs, head, rate, 7)


@pytest.mark.parametrize(
    ("settings", "size", "images", "stored"),
    [
        ({}, 224, 200, True),
        ({}, 224, 5000, False),
        ({}, 32, 200, False),
        ({"statistics": "batch"}, 224, 200, False),
        ({"statistics": "stored"}, 32, 5000, True),
    ],
)
def test_few_photographs_keep_the_stored_statistics(
    settings: dict[str, str], size: int, images: int, stored: bool
) -> None:
    params = FineTuning.model_validate(settings)
    assert plan(params, input_size=size, images=images).stored is stored
