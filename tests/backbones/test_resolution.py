import pytest

from graft.backbones.resolution import at_resolution
from graft.backbones.trunk import build
from graft.errors import GraftError


@pytest.mark.parametrize(
    ("short_side", "wanted", "side", "resized"),
    [
        (28, None, 128, 146),
        (95, None, 128, 146),
        (96, None, 224, 256),
        (500, None, 224, 256),
        (28, 96, 96, 110),
    ],
)
def test_small_images_are_not_enlarged_to_224_unless_asked(
    short_side: float, wanted: int | None, side: int, resized: int
) -> None:
    trunk, config = build("squeezenet1_1")
    found = at_resolution(trunk, config, input_size=wanted, short_side=short_side).preprocessing
    assert (found.input_size, found.resize_size) == (side, resized)


def test_a_network_with_a_weight_per_position_keeps_its_size() -> None:
    trunk, config = build("digits_cnn")
    assert at_resolution(trunk, config, input_size=None, short_side=20).preprocessing.input_size == 32
    with pytest.raises(
        GraftError, match=r"input_size is 48.*digits_cnn cannot see(.|\n)*leave it auto, which is 32"
    ):
        at_resolution(trunk, config, input_size=48, short_side=20)
