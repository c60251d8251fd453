"""The geometry of a batch: one map per image from output to input pixels, sampled once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Warp:
    """What moves the pixels of N images, in the order it is done.

    Attributes:
        angle: Clockwise turn about the centre, degrees (N,).
        scale: Magnification about the centre (N,).
        box: Crop as top, left, height, width in pixels of the input (N, 4); resized to the output.
        mirror, upside_down: Flips, bool (N,).
        corners: Where perspective moves the output's four corners, clockwise from the top left, as x and
            y in pixels (N, 4, 2); None is off.
        displacement: How far from each output pixel the elastic warp looks, x and y in pixels of the
            output (N, 2, S, S); None is off.
    """

    angle: np.ndarray
    scale: np.ndarray
    box: np.ndarray
    mirror: np.ndarray
    upside_down: np.ndarray
    corners: np.ndarray | None = None
    displacement: Tensor | None = None


def warp(images: Tensor, by: Warp, size: int) -> Tensor:
    """Turn, scale, crop, flip, tilt and bend.

    What lies outside the image is its mirror image, not black: black wedges would appear in training
    only, and a network can learn from them how far an image was turned.

    Args:
        images: float (N, 3, R, R).
        by: How, for each image.
        size: S, side of the output.

    Returns:
        float (N, 3, S, S).
    """
    matrices = torch.from_numpy(_to_input(by, images.shape[-1], size)).to(images.device, images.dtype)
    grid = _grid(matrices, by, size)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def corners_of(side: int) -> np.ndarray:
    """x and y of a square's corner pixels, clockwise from the top left (4, 2)."""
    last = side - 1
    return np.array([[0, 0], [last, 0], [last, last], [0, last]], dtype=np.float64)


def _to_input(by: Warp, stored: int, size: int) -> np.ndarray:
    """Homographies (N, 3, 3) from output pixels to the input's coordinates in [-1, 1].

    Pixel k lies at k + 0.5. Done last comes first, on the right, as the map leads back to the input.
    """
    back = _turn(by.angle, by.scale, stored) @ _crop(by.box, by.mirror, by.upside_down, size)
    if by.corners is not None:
        back = back @ _tilt(by.corners, size)
    return np.array([[2 / stored, 0, -1], [0, 2 / stored, -1], [0, 0, 1]]) @ back


def _turn(angle: np.ndarray, scale: np.ndarray, side: int) -> np.ndarray:
    """The inverse of a rotation and a magnification about the centre."""
    cos, sin = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
    zero, one, centre = np.zeros_like(cos), np.ones_like(cos), side / 2
    rows = [
        [cos, sin, centre * (1 - cos - sin)],
        [-sin, cos, centre * (1 + sin - cos)],
        [zero, zero, one],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _crop(box: np.ndarray, mirror: np.ndarray, upside_down: np.ndarray, size: int) -> np.ndarray:
    """From the output, flipped or not, to the box it was cut from."""
    matrices = np.zeros((len(box), 3, 3))
    matrices[:, 2, 2] = 1
    for axis, flipped in enumerate((mirror, upside_down)):
        start, length = box[:, 1 - axis], box[:, 3 - axis]
        matrices[:, axis, axis] = np.where(flipped, -length, length) / size
        matrices[:, axis, 2] = start + np.where(flipped, length, 0)
    return matrices


def _tilt(corners: np.ndarray, size: int) -> np.ndarray:
    """The homography that takes the moved corners back to the square's."""
    equations = np.zeros((len(corners), 8, 8))
    square = corners_of(size)
    equations[:, 0::2, 0:2] = equations[:, 1::2, 3:5] = corners
    equations[:, 0::2, 2] = equations[:, 1::2, 5] = 1
    equations[:, 0::2, 6:] = -corners * square[:, :1]
    equations[:, 1::2, 6:] = -corners * square[:, 1:]
    # Corners that fall together have no solution; lstsq would hide it, inf shows as one odd image.
    solved = torch.linalg.solve_ex(torch.from_numpy(equations), torch.from_numpy(square.reshape(8))).result
    return np.concatenate([solved.numpy(), np.ones((len(corners), 1))], axis=1).reshape(-1, 3, 3)


def _grid(matrices: Tensor, by: Warp, size: int) -> Tensor:
    """Where in the input each output pixel looks, (N, S, S, 2)."""
    along = torch.arange(size, device=matrices.device, dtype=matrices.dtype) + 0.5
    x, y = along.view(1, 1, size), along.view(1, size, 1)
    if by.displacement is not None:
        moved = by.displacement.to(along)
        x, y = x + moved[:, 0], y + moved[:, 1]
    cell = matrices[:, :, :, None, None].unbind(1)
    grid = matrices.new_empty((len(matrices), size, size, 2))
    for axis in (0, 1):  # adding a row to a column spares the matrix product of every pixel
        torch.add(cell[axis][:, 0] * x, cell[axis][:, 1] * y + cell[axis][:, 2], out=grid[..., axis])
    if by.corners is not None:
        grid /= (cell[2][:, 0] * x + (cell[2][:, 1] * y + cell[2][:, 2])).unsqueeze(-1)
    return grid
