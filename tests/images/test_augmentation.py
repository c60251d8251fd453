"""The policy: equal to torchvision's, one draw per image, and the same for the same seed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graft.errors import GraftError
from graft.files import write_json
from graft.images import augmentation
from graft.images.augmentation import augment, compose, mix, policy, read_policy, write_policy
from graft.images.draws import INVERT, NOISE, draw_colour, draw_flips, draw_warp, uniforms
from graft.images.preprocessing import Preprocessing
from graft.images.threads import one_core
from graft.images.warping import Warp
from graft.images.warping import _tilt as perspective_map
from graft.params import Augmentation

OFF: dict[str, Any] = {
    "crop_scale": (1, 1),
    "crop_ratio": (1, 1),
    "rotate": 0,
    "scale": (1, 1),
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
}
ALL: dict[str, Any] = {
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "invert": 0.5,
    "noise": 0.1,
    "perspective": 0.3,
    "elastic": 1.0,
}

Range = tuple[float, float]


def ascending(pair: Range) -> Range:
    return min(pair), max(pair)


def only(**on: Any) -> Augmentation:
    return Augmentation(**{**OFF, **on})


def noise_images(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def smooth_images(count: int, side: int) -> Tensor:
    """Colours that change slowly from pixel to pixel, so that blurring once or three times is the same."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    smooth = functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)
    return (smooth * 255).clamp(0, 255).round().to(torch.uint8)


def as_torchvision_has_it(draws: np.ndarray, made: Warp, image: int, params: Augmentation, size: int) -> dict:
    """What was drawn for one image, in the words of each v2 transform's `transform`."""
    factors, order = draw_colour(params, draws)
    top, left, height, width = (int(x) for x in made.box[image])
    drawn: dict[str, Any] = {
        "RandomAffine": {"angle": float(made.angle[image]), "scale": float(made.scale[image])}
        | {"translate": (0, 0), "shear": (0.0, 0.0)},
        "RandomResizedCrop": {"top": top, "left": left, "height": height, "width": width},
        "ColorJitter": dict(
            zip(
                ("fn_idx", "brightness_factor", "contrast_factor", "saturation_factor", "hue_factor"),
                (order[image], *factors[image].tolist()),
                strict=True,
            )
        ),
        "CenterCrop": {},
        "RandomHorizontalFlip": {},
        "RandomVerticalFlip": {},
        "RandomInvert": {},
    }
    if made.corners is not None:
        map_ = perspective_map(made.corners, size)[image]
        drawn["RandomPerspective"] = {"coefficients": [float(x) for x in map_.flatten()[:8]]}
    if made.displacement is not None:
        field = made.displacement[image].movedim(0, -1)[None] * 2 / size
        drawn["ElasticTransform"] = {"displacement": field}
    return drawn


def by_torchvision(params: Augmentation, pixels: Tensor, preprocessing: Preprocessing, seed: int) -> Tensor:
    """Each image through `compose`, transform by transform, with the numbers that `augment` draws.

    In floating point: on whole numbers v2 truncates after every step, and loses up to ten levels.
    """
    chain = policy(params, preprocessing)
    draws = uniforms(len(pixels), seed)
    made = draw_warp(params, preprocessing, draws, crops=chain.crops)
    chances = dict(
        zip(("RandomHorizontalFlip", "RandomVerticalFlip"), draw_flips(params, draws), strict=True)
    )
    chances["RandomInvert"] = draws[:, INVERT] < params.invert
    results = []
    for number, image in enumerate(pixels / 255):
        drawn = as_torchvision_has_it(draws, made, number, params, preprocessing.input_size)
        for transform in compose(chain).transforms:
            name = type(transform).__name__
            if name not in chances or chances[name][number]:
                image = transform.transform(image, drawn[name])
        results.append(image)
    return 255 * torch.stack(results)


def inside(params: Augmentation, pixels: Tensor, preprocessing: Preprocessing, seed: int) -> Tensor:
    """Where torchvision's result does not touch the black outside: a white image stays white there."""
    geometry = params.model_copy(
        update={"invert": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    )
    white = by_torchvision(geometry, torch.full_like(pixels, 255), preprocessing, seed)
    dark = functional.max_pool2d((white < 254.9).float(), 5, stride=1, padding=2)
    dark[..., [0, 1, -2, -1], :] = dark[..., [0, 1, -2, -1]] = 1
    return dark == 0


PARTS: dict[str, Augmentation] = {
    "rotate and scale": only(rotate=30, scale=(0.7, 1.4)),
    "crop": only(crop_scale=(0.3, 1), crop_ratio=(0.7, 1.4)),
    "flips": only(flip_horizontal=0.5, flip_vertical=0.5),
    "perspective": only(perspective=0.4),
    "invert": only(invert=0.5),
    "elastic": only(elastic=1.5),
    "brightness": only(brightness=0.6),
    "contrast": only(contrast=0.6),
    "saturation": only(saturation=0.9),
    "hue": only(hue=0.5),
    "colour": only(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
    # No contrast where borders show: it goes by the image's mean, and torchvision's holds the black.
    "default": Augmentation(contrast=0),
    "all": Augmentation(
        contrast=0, invert=0.5, flip_horizontal=0.5, flip_vertical=0.5, perspective=0.2, elastic=1.0
    ),
}


# Where torchvision samples, and blurs, more than once; and where it antialiases.
TOLERANCE = {"default": 2.0, "all": 3.0, "crop": 1.5}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("sizes", [(32, 32), (56, 64)], ids=["32", "56 of 64"])
def test_the_batch_equals_torchvision_image_by_image(part: str, sizes: tuple[int, int]) -> None:
    params, preprocessing = PARTS[part], Preprocessing(*sizes)
    pixels = smooth_images(24, preprocessing.resize_size)

    ours = augment(policy(params, preprocessing), pixels, seed=7)
    theirs = by_torchvision(params, pixels, preprocessing, seed=7)

    where = inside(params, pixels, preprocessing, seed=7)
    difference = (ours - theirs).abs()[where]
    assert where.float().mean() > 0.3
    assert difference.max() < TOLERANCE.get(part, 0.6)  # of 255; half a level is rounding
    untouched = pixels if sizes[0] == sizes[1] else preprocessing.centre(pixels)
    assert (theirs - untouched).abs()[where].mean() > 3  # something was done


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "hue", "colour"])
def test_colours_of_any_pixels_equal_torchvision(part: str) -> None:
    pixels = noise_images(24, 16)
    pixels[0] = pixels[0, :1]  # grey: no hue
    pixels[1], pixels[2] = 0, 255
    ours = augment(policy(PARTS[part], Preprocessing(16, 16)), pixels, seed=3)
    theirs = by_torchvision(PARTS[part], pixels, Preprocessing(16, 16), seed=3)
    assert (ours - theirs).abs().max() < 0.6


def test_draws_are_distributed_as_torchvision_draws() -> None:
    from torchvision.transforms import v2

    params = Augmentation(crop_scale=(0.1, 1.0), crop_ratio=(0.5, 2.0), rotate=20, scale=(0.5, 1.5))
    made = draw_warp(params, Preprocessing(32, 32), uniforms(4000, 0), crops=True)
    image = torch.zeros(3, 32, 32)
    affine = v2.RandomAffine(20, scale=(0.5, 1.5))
    crop = v2.RandomResizedCrop(32, (0.1, 1.0), (0.5, 2.0))
    theirs = [affine.make_params([image]) | crop.make_params([image]) for _ in range(4000)]

    for name, drawn in zip(("top", "left", "height", "width"), made.box.T, strict=True):
        assert_same_distribution(drawn, [each[name] for each in theirs])
    assert_same_distribution(made.angle, [each["angle"] for each in theirs])
    assert_same_distribution(made.scale, [each["scale"] for each in theirs])


def test_factors_are_distributed_as_torchvision_draws() -> None:
    from torchvision.transforms import v2

    factors, order = draw_colour(Augmentation(brightness=1.5, hue=0.3), uniforms(4000, 0))
    theirs = [v2.ColorJitter(1.5, 0.2, 0.2, 0.3).make_params([]) for _ in range(4000)]
    for column, name in ((0, "brightness_factor"), (1, "contrast_factor"), (3, "hue_factor")):
        assert_same_distribution(factors[:, column].numpy(), [each[name] for each in theirs])
    _, counts = np.unique(order.numpy(), axis=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 100  # 167 expected of each order


def assert_same_distribution(ours: np.ndarray, theirs: list[float]) -> None:
    from scipy.stats import ks_2samp

    assert ks_2samp(ours, theirs).pvalue > 1e-4


def test_corners_move_as_torchvision_moves_them() -> None:
    from torchvision.transforms.v2.functional import perspective

    params, size = only(perspective=0.6), 32
    made = draw_warp(params, Preprocessing(size, size), uniforms(50, 1), crops=False)
    assert made.corners is not None
    assert made.corners.min() == 0
    assert made.corners.max() == size - 1
    inwards = np.abs(made.corners - [[0, 0], [31, 0], [31, 31], [0, 31]])
    assert inwards.max() == int(0.6 * 16)
    image = smooth_images(1, size)[0]
    square = [[0, 0], [31, 0], [31, 31], [0, 31]]
    theirs = perspective(image, square, made.corners[5].astype(int).tolist())
    coefficients = [float(x) for x in perspective_map(made.corners, size)[5].flatten()[:8]]
    ours = perspective(image, None, None, coefficients=coefficients)
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_noise_has_the_deviation_asked_for() -> None:
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    noisy = augment(policy(only(noise=0.1), Preprocessing(32, 32)), grey, seed=0).float()
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert noisy.std() == pytest.approx(25.5, rel=0.01)
    assert (noisy[0] != noisy[1]).any()


def test_elastic_moves_pixels_by_the_deviation_asked_for() -> None:
    made = draw_warp(only(elastic=2.0), Preprocessing(32, 32), uniforms(500, 0), crops=False)
    assert made.displacement is not None
    assert made.displacement[..., [0, -1], :][..., [0, -1]].std() == pytest.approx(2.0, rel=0.05)
    assert 1 < made.displacement.std() < 2
    theirs = compose(policy(only(elastic=2.0), Preprocessing(32, 32))).transforms[-1]
    torch.manual_seed(0)  # it draws from torch's own generator
    fields = [theirs.make_params([torch.zeros(3, 32, 32)])["displacement"] * 16 for _ in range(200)]
    assert torch.stack(fields).std() == pytest.approx(2.0, rel=0.25)


def test_outside_the_image_lies_its_mirror_image_not_black() -> None:
    bright = torch.full((16, 3, 32, 32), 200, dtype=torch.uint8)
    turned = augment(policy(only(rotate=180, scale=(0.5, 0.6)), Preprocessing(32, 32)), bright, seed=0)
    assert (turned == 200).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(4, 20), st.integers(0, 5), st.integers(0, 2**32))
def test_a_policy_that_does_nothing_gives_the_centre(count: int, size: int, margin: int, seed: int) -> None:
    preprocessing = Preprocessing(size, size + margin)
    pixels = noise_images(count, size + margin)
    assert torch.equal(
        augment(policy(only(), preprocessing), pixels, seed=seed), preprocessing.centre(pixels)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 20), st.integers(0, 5), st.integers(0, 2**32))
def test_a_warp_that_moves_nothing_gives_the_centre(size: int, margin: int, seed: int) -> None:
    preprocessing = Preprocessing(size, size + margin)
    pixels = noise_images(3, size + margin)
    barely = only(rotate=1e-9, elastic=1e-9)  # takes the sampling road
    assert torch.equal(
        augment(policy(barely, preprocessing), pixels, seed=seed), preprocessing.centre(pixels)
    )


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 6),
    size=st.integers(1, 24),
    margin=st.integers(0, 8),
    seed=st.integers(0, 2**32),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(ascending),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(ascending),
    distortion=st.floats(0, 1),
)
def test_any_policy_keeps_type_and_shape_and_repeats_itself(
    count: int, size: int, margin: int, seed: int, scale: Range, ratio: Range, distortion: float
) -> None:
    params = Augmentation(
        **{**ALL, "perspective": distortion}, crop_scale=scale, crop_ratio=ratio, rotate=180
    )
    chosen = policy(params, Preprocessing(size, size + margin))
    pixels = noise_images(count, size + margin)
    first = augment(chosen, pixels, seed=seed)
    assert first.shape == (count, 3, size, size)
    assert first.dtype == torch.uint8
    assert torch.equal(first, augment(chosen, pixels, seed=seed))


def test_seeds_and_images_differ() -> None:
    chosen = policy(Augmentation(**ALL), Preprocessing(32, 32))
    same = noise_images(1, 32).expand(4, -1, -1, -1)
    first = augment(chosen, same, seed=0)
    assert not torch.equal(first, augment(chosen, same, seed=1))
    assert not torch.equal(first, augment(chosen, same, seed=(0, 1)))
    assert len({image.numpy().tobytes() for image in first}) == 4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 10), st.integers(0, 2**32))
def test_an_image_does_not_depend_on_its_neighbours(place: int, chunk: int, seed: int) -> None:
    chosen = policy(Augmentation(**ALL), Preprocessing(10, 10))
    pixels, others = noise_images(10, 10), noise_images(10, 10, seed=1)
    others[place] = pixels[place]
    whole = augment(chosen, pixels, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "CHUNK", 100 * chunk)
        assert torch.equal(whole[place], augment(chosen, others, seed=seed)[place])
        assert torch.equal(whole[: place + 1], augment(chosen, pixels[: place + 1], seed=seed))


def test_neither_reads_nor_moves_the_global_random_state() -> None:
    chosen = policy(Augmentation(**ALL, mixup=0.5, cutmix=0.5), Preprocessing(32, 32))
    pixels, targets = noise_images(8, 32), torch.eye(8)
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        augmented = augment(chosen, pixels, seed=5)
        results.append((augmented, *mix(augmented.float(), targets, chosen.params, seed=5)))
        assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_threads_do_not_disturb_each_other() -> None:
    chosen = policy(Augmentation(**ALL), Preprocessing(24, 24))
    pixels = noise_images(64, 24)
    expected = [augment(chosen, pixels, seed=seed) for seed in range(6)]
    found: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        found[seed] = augment(chosen, pixels, seed=seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], image) for seed, image in enumerate(expected))


def test_one_core_holds_for_the_calling_thread_alone() -> None:
    inside: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_core():
            inside.append(torch.get_num_threads())
            other = threading.Thread(target=lambda: inside.append(torch.get_num_threads()))
            other.start()
            other.join()
        assert inside == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_torch_keeps_its_threads_and_inference_mode_makes_no_difference() -> None:
    chosen, pixels = policy(Augmentation(**ALL), Preprocessing(64, 64)), noise_images(200, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            inferred = augment(chosen, pixels, seed=0)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert torch.equal(inferred, augment(chosen, pixels, seed=0))
    finally:
        torch.set_num_threads(threads)


@given(st.booleans(), st.booleans())
@settings(max_examples=4, deadline=None)
def test_flipping_twice_gives_the_image_back(across: bool, down: bool) -> None:
    chosen = policy(only(flip_horizontal=float(across), flip_vertical=float(down)), Preprocessing(12, 12))
    pixels = noise_images(5, 12)
    once = augment(chosen, pixels, seed=0)
    axes = [axis for axis, on in ((-1, across), (-2, down)) if on]
    assert torch.equal(once, pixels.flip(axes))
    assert torch.equal(augment(chosen, once, seed=1), pixels)


def test_half_of_the_images_flip() -> None:
    pixels = noise_images(1000, 4)
    flipped = augment(policy(only(flip_horizontal=0.5), Preprocessing(4, 4)), pixels, seed=0)
    changed = (flipped == pixels.flip(-1)).flatten(1).all(1)
    assert 420 < int(changed.sum()) < 580
    assert torch.equal(flipped[~changed], pixels[~changed])


def test_switching_a_part_on_leaves_the_other_parts_draws() -> None:
    draws = uniforms(10, 0)
    one = draw_warp(only(rotate=10), Preprocessing(32, 32), draws, crops=False)
    other = draw_warp(only(rotate=10, elastic=1, perspective=0.5), Preprocessing(32, 32), draws, crops=True)
    assert np.array_equal(one.angle, other.angle)
    assert len(set(draws[:, NOISE])) == 10


@pytest.mark.parametrize("name", ["crop_scale", "crop_ratio", "scale"])
def test_a_range_that_runs_downwards_is_refused(name: str) -> None:
    with pytest.raises(
        GraftError, match=rf"{name} = \[0.9, 0.5\] runs downwards\n.*write {name}: \[0.5, 0.9\]"
    ):
        policy(Augmentation.model_validate({name: (0.9, 0.5)}), Preprocessing(32, 32))


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(GraftError, match=r"crop_scale = \[0.5, 1.5\].*\n.*at most 1"):
        policy(Augmentation(crop_scale=(0.5, 1.5)), Preprocessing(32, 32))


@pytest.mark.parametrize("pixels", [torch.zeros(2, 3, 31, 31, dtype=torch.uint8), torch.zeros(2, 3, 32, 32)])
def test_pixels_of_another_size_or_type_are_refused(pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        augment(policy(Augmentation(), Preprocessing(32, 32)), pixels, seed=0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(2, 5), st.floats(0.01, 5), st.sampled_from(["mixup", "cutmix", "both"]),
    st.integers(0, 2**32),
)  # fmt: skip
def test_soft_labels_sum_to_one_and_tell_the_share_of_pixels(
    count: int, classes: int, alpha: float, way: str, seed: int
) -> None:
    params = only(mixup=alpha * (way != "cutmix"), cutmix=alpha * (way != "mixup"))
    labels = torch.arange(count) % classes
    # Image i is filled with its class number, so that its mean tells how much of whom is in it.
    inputs = labels.float().view(-1, 1, 1, 1).repeat(1, 3, 12, 12)
    mixed, targets = mix(inputs, functional.one_hot(labels, classes).float(), params, seed=seed)
    assert mixed.shape == inputs.shape
    assert targets.shape == (count, classes)
    assert torch.allclose(targets.sum(1), torch.ones(count), atol=1e-5)
    assert torch.allclose(mixed.mean((1, 2, 3)), targets @ torch.arange(float(classes)), atol=1e-4)


def test_cutmix_pastes_boxes_as_large_as_torchvision_does() -> None:
    from torchvision.transforms import v2

    inputs, targets = torch.rand(2, 3, 32, 32), torch.eye(2)
    kept = [float(mix(inputs, targets, only(cutmix=1), seed=seed)[1][0, 0]) for seed in range(2000)]
    theirs = [v2.CutMix().make_params([inputs])["lam_adjusted"] for _ in range(2000)]
    assert_same_distribution(np.array(kept), theirs)


def test_mixing_that_is_off_changes_nothing() -> None:
    inputs, targets = torch.rand(4, 3, 8, 8), torch.eye(4)
    mixed, soft = mix(inputs, targets, only(), seed=0)
    assert mixed is inputs
    assert soft is targets


def test_where_both_are_on_each_gets_half_of_the_batches() -> None:
    inputs = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    mixed = [mix(inputs, torch.eye(2), only(mixup=5, cutmix=5), seed=seed)[0] for seed in range(300)]
    blended = sum(bool(((images > 0) & (images < 1)).any()) for images in mixed)
    assert 110 < blended < 190


def test_the_policy_survives_its_file(tmp_path: Path) -> None:
    params = Augmentation(**ALL, crop_scale=(0.25, 0.5), seed=3)
    write_policy(params, tmp_path)
    assert read_policy(tmp_path) == params


def test_a_missing_policy_names_the_step_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"policy\.json is not a readable policy.*\n.*augmentation step"):
        read_policy(tmp_path)


def test_a_policy_of_unknown_parts_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "policy.json", {"rotation": 3})
    with pytest.raises(GraftError, match=r"unknown key 'rotation'\n.*rotate"):
        read_policy(tmp_path)
