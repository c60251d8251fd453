"""What chance decides about each image, as torchvision's v2 transforms draw it, for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graft.images.preprocessing import Preprocessing
from graft.images.warping import Warp, corners_of
from graft.params import Augmentation

ATTEMPTS = 10  # crops tried before the whole image is taken, as RandomResizedCrop does
ELASTIC_POINTS = 4  # control points along each side

# Columns of the table of uniform numbers, one row per image. A column always means the same, so that
# switching one part of the policy on or off leaves the other parts' draws as they were.
ANGLE, ZOOM, MIRROR, UPSIDE_DOWN, NOISE = range(5)
FACTORS, ORDER = slice(5, 9), slice(9, 13)
CORNERS = slice(13, 21)
CROP = slice(21, 23 + 2 * ATTEMPTS)
ELASTIC = slice(CROP.stop, CROP.stop + 2 * ELASTIC_POINTS**2)
INVERT = ELASTIC.stop
COLUMNS = INVERT + 1


def uniforms(count: int, seed: int | Sequence[int]) -> np.ndarray:
    """Random numbers in [0, 1) for `count` images; row i is the same whatever `count` is.

    Returns:
        float64 (count, COLUMNS).
    """
    return np.random.default_rng(seed).random((count, COLUMNS))


def draw_warp(params: Augmentation, preprocessing: Preprocessing, draws: np.ndarray, *, crops: bool) -> Warp:
    """The geometry of N images, as RandomAffine, RandomResizedCrop, flips, RandomPerspective and
    ElasticTransform draw it; parts that are off get their neutral value.

    Args:
        params: Strengths.
        preprocessing: Sizes of the input and the output.
        draws: `uniforms` (N, COLUMNS).
        crops: Whether to draw crops; if not, the box is the centre S x S.
    """
    stored, size = preprocessing.resize_size, preprocessing.input_size
    start = round((stored - size) / 2)
    centred = np.tile([start, start, size, size], (len(draws), 1))
    mirror, upside_down = draw_flips(params, draws)
    return Warp(
        angle=params.rotate * (2 * draws[:, ANGLE] - 1),
        scale=between(*params.scale, draws[:, ZOOM]),
        box=crop_boxes(draws[:, CROP], params.crop_scale, params.crop_ratio, stored) if crops else centred,
        mirror=mirror,
        upside_down=upside_down,
        corners=quadrangles(draws[:, CORNERS], params.perspective, size) if params.perspective else None,
        displacement=displacement(draws[:, ELASTIC], params.elastic, size) if params.elastic else None,
    )


def draw_colour(params: Augmentation, draws: np.ndarray) -> tuple[Tensor, Tensor]:
    """Factors of brightness, contrast, saturation and hue, and their order, as ColorJitter draws them.

    Returns:
        float64 (N, 4); int64 (N, 4), each row a permutation of 0 .. 3. A neutral factor is 1, or 0 of hue.
    """
    strengths = np.array([params.brightness, params.contrast, params.saturation])
    multiplied = between(np.maximum(1 - strengths, 0), 1 + strengths, draws[:, FACTORS][:, :3])
    turned = params.hue * (2 * draws[:, FACTORS][:, 3:] - 1)
    factors = torch.from_numpy(np.hstack([multiplied, turned]))
    return factors, torch.from_numpy(draws[:, ORDER].argsort(axis=1))


def draw_flips(params: Augmentation, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are mirrored and which are turned upside down, bool (N,) each."""
    return draws[:, MIRROR] < params.flip_horizontal, draws[:, UPSIDE_DOWN] < params.flip_vertical


def crop_boxes(
    draws: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float], side: int
) -> np.ndarray:
    """Crops of random area and aspect ratio (Szegedy et al. 2015), as RandomResizedCrop draws them.

    Args:
        draws: Uniform numbers (N, 2 * ATTEMPTS + 2).
        scale: Least and greatest share of the area.
        ratio: Least and greatest width / height; its logarithm is uniform.
        side: Of the square image, pixels.

    Returns:
        Top, left, height and width, whole numbers in float64 (N, 4).
    """
    areas, ratios, position = np.split(draws, [ATTEMPTS, 2 * ATTEMPTS], axis=1)
    areas = side**2 * between(*scale, areas)
    ratios = np.exp(between(math.log(ratio[0]), math.log(ratio[1]), ratios))
    width, height = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits.argmax(axis=1)[:, None]
    size = np.hstack([np.take_along_axis(lengths, first, axis=1) for lengths in (height, width)])
    corner = np.floor(position * (side - size + 1))
    whole = np.rint([side / max(1, ratio[0]), side * min(1, ratio[1])])
    fallback = np.concatenate([(side - whole) // 2, whole])
    return np.where(fits.any(axis=1)[:, None], np.hstack([corner, size]), fallback)


def quadrangles(draws: np.ndarray, distortion: float, side: int) -> np.ndarray:
    """Corners moved inwards by up to distortion / 2 of the side, as RandomPerspective draws them.

    Args:
        draws: Uniform numbers (N, 8).

    Returns:
        x and y of the top left, top right, bottom right and bottom left corner (N, 4, 2).
    """
    inwards = np.floor(draws.reshape(-1, 4, 2) * (int(distortion * (side // 2)) + 1))
    return np.abs(corners_of(side) - inwards)


def displacement(draws: np.ndarray, pixels: float, side: int) -> Tensor:
    """A smooth random field: normal displacements of a coarse grid of points, and bicubic
    interpolation between them (Ronneberger et al. 2015).

    Args:
        draws: Uniform numbers (N, 2 * ELASTIC_POINTS ** 2).
        pixels: Standard deviation of the points' displacement.
        side: S.

    Returns:
        float32 (N, 2, S, S).
    """
    normal = torch.special.ndtri(torch.from_numpy(draws).clamp(1e-6, 1 - 1e-6)).float()
    points = pixels * normal.view(-1, 2, ELASTIC_POINTS, ELASTIC_POINTS)
    # Cubic weights of each pixel in each point: two products with them cost a fifth of interpolating.
    each = torch.eye(ELASTIC_POINTS).view(1, ELASTIC_POINTS, ELASTIC_POINTS, 1)
    weights = functional.interpolate(each, size=(side, 1), mode="bicubic", align_corners=True)[0, :, :, 0]
    return weights.T @ points @ weights


def between(low: np.ndarray | float, high: np.ndarray | float, draws: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) stretched to [low, high)."""
    return low + (high - low) * draws
