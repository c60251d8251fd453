"""One augmentation policy: drawn afresh in training, written out as views for feature extraction.

The policy is a chain of torchvision's v2 transforms: `compose` builds it as torchvision has it, one
image at a time. `augment` does the same to a whole batch in a fraction of the time: all geometry is one
map per image from output to input pixels, sampled once, so that an image is also blurred once and not
three times. Tests hold the two equal, in what is drawn and in the pixels.

Random numbers come from generators of our own, never from torch's global one: threads cannot disturb
each other, and a batch depends on nothing but its pixels, the policy and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graft.errors import GraftError
from graft.files import read_json, write_json
from graft.images.colour import jitter
from graft.images.draws import INVERT, NOISE, draw_colour, draw_flips, draw_warp, uniforms
from graft.images.preprocessing import Preprocessing
from graft.images.threads import one_core
from graft.images.warping import warp
from graft.params import Augmentation, parse

if TYPE_CHECKING:
    from torchvision.transforms import v2

CHUNK = 2**18  # output pixels worked on at once: few calls, and float copies of a few MiB


@dataclass(frozen=True)
class Policy:
    """What is done to an image, and the sizes it is done at.

    Attributes:
        params: Strengths and probabilities.
        preprocessing: Its `resize_size` R is the side that comes in, `input_size` S the side that leaves.
    """

    params: Augmentation
    preprocessing: Preprocessing

    @property
    def crops(self) -> bool:
        """Whether crops are drawn; if not, the centre S x S is cut out, as evaluation does."""
        return self.params.crop_scale != (1, 1) or self.params.crop_ratio != (1, 1)

    @property
    def turns(self) -> bool:
        """Whether images are rotated or scaled."""
        return self.params.rotate > 0 or self.params.scale != (1, 1)

    @property
    def warps(self) -> bool:
        """Whether pixels move other than by a flip."""
        return self.crops or self.turns or self.params.perspective > 0 or self.params.elastic > 0

    @property
    def recolours(self) -> bool:
        """Whether colours are jittered."""
        p = self.params
        return max(p.brightness, p.contrast, p.saturation, p.hue) > 0


def policy(params: Augmentation, preprocessing: Preprocessing) -> Policy:
    """Join parameters and sizes.

    Raises:
        GraftError: a range runs downwards, or a crop would be larger than the image.
    """
    for name in ("crop_scale", "crop_ratio", "scale"):
        low, high = getattr(params, name)
        if low > high:
            problem = f"augmentation: {name} = [{low}, {high}] runs downwards"
            raise GraftError(problem, f"write {name}: [{high}, {low}]")
    if params.crop_scale[1] > 1:
        problem = f"augmentation: crop_scale = {list(params.crop_scale)} crops more than the whole image"
        raise GraftError(problem, "crop_scale is a share of the image's area: give numbers of at most 1")
    return Policy(params, preprocessing)


def augment(policy: Policy, pixels: Tensor, *, seed: int | Sequence[int]) -> Tensor:
    """Augment a batch, each image by its own draws.

    Image i of the result depends on image i, on i and on the seed: not on its neighbours, not on how
    the batch is cut into chunks, not on torch's random state.

    Args:
        policy: What to do.
        pixels: uint8 (N, 3, R, R), on any device.
        seed: One number, or several such as (seed, epoch, batch).

    Returns:
        uint8 (N, 3, S, S), on the same device.
    """
    return augment_by(policy, pixels, uniforms(len(pixels), seed))


def augment_by(policy: Policy, pixels: Tensor, draws: np.ndarray) -> Tensor:
    """`augment` by given random numbers, a row of `graft.images.draws.uniforms` for each image."""
    stored, size = policy.preprocessing.resize_size, policy.preprocessing.input_size
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, stored, stored):
        raise ValueError(f"expected uint8 (N, 3, {stored}, {stored}), got {pixels.dtype} {pixels.shape}")
    if pixels.device.type != "cpu":
        return _augment_chunk(policy, pixels, draws)
    step = max(1, CHUNK // size**2)

    made = np.empty((len(pixels), 3, size, size), np.uint8)  # threads do not know of inference mode

    def chunk(start: int) -> None:
        part = slice(start, start + step)
        with one_core():
            made[part] = _augment_chunk(policy, pixels[part], draws[part]).numpy()

    starts = range(0, len(pixels), step)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # starts no thread for a single chunk
        list(pool.map(chunk, starts) if len(starts) > 1 else map(chunk, starts))
    return torch.from_numpy(made)


def _augment_chunk(policy: Policy, pixels: Tensor, draws: np.ndarray) -> Tensor:
    params, preprocessing = policy.params, policy.preprocessing
    if policy.warps:
        moved = draw_warp(params, preprocessing, draws, crops=policy.crops)
        images = warp(pixels.float(), moved, preprocessing.input_size)
    else:
        images = _flip(preprocessing.centre(pixels), *draw_flips(params, draws)).float()
    if params.invert:
        inverted = torch.from_numpy(draws[:, INVERT] < params.invert).to(images.device).view(-1, 1, 1, 1)
        images = torch.where(inverted, 255 - images, images)
    if policy.recolours:
        images = jitter(images, *draw_colour(params, draws))
    if params.noise:
        images += 255 * params.noise * _normal(images, draws[:, NOISE])
    return images.round_().clamp_(0, 255).to(torch.uint8)


def _flip(pixels: Tensor, mirror: np.ndarray, upside_down: np.ndarray) -> Tensor:
    for flipped, axis in ((mirror, -1), (upside_down, -2)):
        where = torch.from_numpy(flipped).to(pixels.device).view(-1, 1, 1, 1)
        pixels = torch.where(where, pixels.flip(axis), pixels)
    return pixels


def _normal(images: Tensor, draws: np.ndarray) -> Tensor:
    """Normal numbers of the shape of `images`, from one generator per image."""
    numbers = torch.empty_like(images)
    generator = torch.Generator(images.device)
    for image, draw in zip(numbers, draws, strict=True):
        image.normal_(generator=generator.manual_seed(int(draw * 2**53)))
    return numbers


def compose(policy: Policy) -> v2.Compose:
    """The same policy as torchvision builds it, for one uint8 image (3, R, R) at a time.

    Three things differ from `augment`. Each step here blurs anew; what lies outside the image is black
    here and mirrored there; and the elastic field, of the same strength, is smoothed noise here.
    """
    from torchvision.transforms import v2

    p, size = policy.params, policy.preprocessing.input_size
    bilinear = v2.InterpolationMode.BILINEAR
    smooth = size / 8  # elastic: of noise in [-1, 1] the blur leaves 1 / sqrt(12 pi) / smooth
    chain = [
        (
            policy.turns,
            lambda: v2.RandomAffine(p.rotate, scale=p.scale, interpolation=bilinear),
        ),
        (policy.crops, lambda: v2.RandomResizedCrop(size, p.crop_scale, p.crop_ratio)),
        (not policy.crops, lambda: v2.CenterCrop(size)),
        (p.flip_horizontal, lambda: v2.RandomHorizontalFlip(p.flip_horizontal)),
        (p.flip_vertical, lambda: v2.RandomVerticalFlip(p.flip_vertical)),
        (p.perspective, lambda: v2.RandomPerspective(p.perspective, p=1.0)),
        (p.elastic, lambda: v2.ElasticTransform(2 * p.elastic * math.sqrt(12 * math.pi) * smooth, smooth)),
        (p.invert, lambda: v2.RandomInvert(p.invert)),
        (policy.recolours, lambda: v2.ColorJitter(p.brightness, p.contrast, p.saturation, p.hue)),
        (p.noise, lambda: v2.GaussianNoise(sigma=p.noise)),
    ]
    return v2.Compose([transform() for on, transform in chain if on])


def mix(
    inputs: Tensor, targets: Tensor, params: Augmentation, *, seed: int | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Mix each image of a shuffled batch with its neighbour, and their labels alike.

    mixup (Zhang et al. 2018) blends the two, CutMix (Yun et al. 2019) pastes a box of one into the
    other; where both are on, a batch gets one of them, with equal chances.

    Args:
        inputs: float (N, 3, S, S), normalised or not.
        targets: Probabilities, float (N, C): one-hot or already soft.
        params: `mixup` and `cutmix` are the alpha of a Beta(alpha, alpha) distribution; 0 is off.
        seed: As of `augment`.

    Returns:
        New inputs and targets of the same shapes; those that came in, where both are off.
    """
    ways = [name for name in ("mixup", "cutmix") if (getattr(params, name) or 0) > 0]
    if not ways:
        return inputs, targets
    from torchvision.transforms import v2

    random = np.random.default_rng(seed)
    way = ways[random.integers(len(ways))]
    share = float(random.beta(getattr(params, way), getattr(params, way)))
    transform: v2.Transform = v2.MixUp() if way == "mixup" else v2.CutMix()
    drawn = {"lam": share} if way == "mixup" else _box(inputs.shape[-1], share, random)
    batch = {"labels": targets, "batch_size": len(targets), **drawn}
    return transform.transform(inputs, batch), transform.transform(targets, batch)


def _box(side: int, share: float, random: np.random.Generator) -> dict[str, Any]:
    """CutMix's box about a random centre: 1 - share of the area, where it does not stick out."""
    centre = random.integers(side, size=2)
    half = int(0.5 * math.sqrt(1 - share) * side)
    left, top, right, bottom = (int(x) for x in [*(centre - half).clip(0), *(centre + half).clip(max=side)])
    kept = 1 - (right - left) * (bottom - top) / side**2
    return {"box": (left, top, right, bottom), "lam_adjusted": kept}


def write_policy(params: Augmentation, folder: str | Path) -> None:
    """Store a policy as policy.json."""
    write_json(Path(folder) / "policy.json", params.model_dump(mode="json"))


def read_policy(folder: str | Path) -> Augmentation:
    """Read the policy that lies beside views.

    Raises:
        GraftError: there is none, or it is not one.
    """
    path = Path(folder) / "policy.json"
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise GraftError(f"{path} is not a readable policy: {error}", "run the augmentation step") from error
    return parse(Augmentation, values, str(path))
