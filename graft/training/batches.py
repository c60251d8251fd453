"""Which images are in step i: a pure function of the seed and i, so that a resumed run sees the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graft.images.ahead import Ahead, gathered
from graft.images.augmentation import Policy, augment_by, mix
from graft.images.draws import uniforms
from graft.images.loading import Images
from graft.images.preprocessing import Preprocessing
from graft.training.distributed import rank, world
from graft.training.pieces import now

FAR = 2**28  # bytes: sets from this size on may be mapped from a disk, and their batches are fetched ahead


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A seed of its own for each step and use, in [0, 2^63)."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Positions of one batch: an endless row of seeded permutations, cut into equal batches.

    Args:
        count: Number of images, N > 0.
        batch_size: B; may exceed N, and then images repeat within the batch.
        step: Which batch, from 0.
        seed: Of the order.

    Returns:
        int64 (B,), each in [0, N). Over any N consecutive positions aligned with a permutation,
        every image occurs exactly once.
    """
    epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), count)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = _order(count, epoch, seed)[places[here]]
    return indices


@lru_cache(maxsize=8)  # to shuffle a million images takes as long as a step on a GPU
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class Stream(Protocol):
    """Batches without end, each a function of its number."""

    @property
    def share(self) -> int:
        """B: how many images a call gives."""

    @property
    def per_epoch(self) -> int:
        """Steps that show each image about once."""

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Step i's images, float (B, 3, S, S), and label probabilities (B, C)."""


@dataclass(frozen=True)
class Batches:
    """Augmented, normalised training batches of one set of images.

    Where several processes train together, each gets its slice of every batch, and the slices are those
    of the batch that one process alone would see: more processes do not change what is learned. That is
    why images, draws and mixing are fixed for the whole batch and only then cut. Where memory does not
    suffice for a slice, it is cut once more (`graft.training.pieces`).

    Attributes:
        images: N images held as uint8.
        classes: C, the number of classes; labels become (B, C) probabilities.
        policy: The augmentation; None only crops the centre.
        batch_size: Of all processes together; rounded up to equal slices, so that each counts the same.
    """

    images: Images
    classes: int
    preprocessing: Preprocessing
    policy: Policy | None
    batch_size: int
    seed: int
    device: torch.device

    @property
    def share(self) -> int:
        """B: how many images a call gives: this process's of each batch, or of the piece at the moment."""
        mine = self._mine
        return mine.stop - mine.start

    @property
    def per_epoch(self) -> int:
        """Steps that show each image about once."""
        return max(1, round(len(self.images) / self._whole))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Step i's images, float (B, 3, S, S), and label probabilities (B, C); zeros where unlabelled."""
        seed = step_seed(self.seed, step, stream=1)
        mine = self._mine
        mixes = self.policy is not None and bool(self.policy.params.mixup or self.policy.params.cutmix)
        # Where nothing is mixed each image depends on its own draws alone: the others need not be made.
        seen = slice(0, self._whole) if mixes else mine
        draws = uniforms(self._whole, seed)[seen]
        labels = self.images.labels[self._places(step, seen)]
        inputs, targets = self._inputs(self._pixels(step, seen), draws), self._targets(labels)
        if self.policy is not None and mixes:
            if bool((labels >= 0).all()):
                inputs, targets = mix(inputs, targets, self.policy.params, seed=seed)
            inputs, targets = inputs[mine], targets[mine]
        return inputs.contiguous(memory_format=torch.channels_last), targets

    @property
    def _whole(self) -> int:
        """Images of a batch in all processes together."""
        return -(-self.batch_size // world()) * world()

    @property
    def _mine(self) -> slice:
        own = self._whole // world()
        return now.get().of(slice(rank() * own, (rank() + 1) * own))

    def _places(self, step: int, seen: slice) -> Tensor:
        return torch.from_numpy(batch_indices(len(self.images), self._whole, step, self.seed)[seen])

    def _pixels(self, step: int, seen: slice) -> Tensor:
        """Of the images in a part of step i's batch, on the device; those of the next step are begun."""
        pixels = self.images.pixels
        if pixels.is_cuda or (self.device.type != "cuda" and pixels.nbytes < FAR):
            return pixels[self._places(step, seen)].to(self.device)
        found = self._ahead((step, seen.start, seen.stop), (step + 1, seen.start, seen.stop))
        return found.to(self.device, non_blocking=True)

    @cached_property
    def _ahead(self) -> Ahead[tuple[int, int, int]]:
        # Not self, which keeps this: the pixels are freed with the last batch, not when a collector comes by.
        pixels, whole, seed, device = self.images.pixels, self._whole, self.seed, self.device

        def fetch(key: tuple[int, int, int]) -> Tensor:
            step, start, stop = key
            places = batch_indices(len(pixels), whole, step, seed)[start:stop]
            return gathered(pixels, torch.from_numpy(places), device)

        return Ahead(fetch)

    def _inputs(self, pixels: Tensor, draws: np.ndarray) -> Tensor:
        if self.policy is None:
            return self.preprocessing.normalise(self.preprocessing.centre(pixels))
        return self.preprocessing.normalise(augment_by(self.policy, pixels, draws))

    def _targets(self, labels: Tensor) -> Tensor:
        known = (labels >= 0).float().unsqueeze(1)
        return (functional.one_hot(labels.clamp(min=0), self.classes) * known).to(self.device)
