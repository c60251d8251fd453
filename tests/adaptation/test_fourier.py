"""Source images in the target's style: whose amplitudes, whose phases, and what a step then sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graft.adaptation.fourier import in_style
from tests.adaptation.conftest import PARAMS

Student = Callable[..., tuple]


def noise(size: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 20), st.floats(0, 0.5), st.integers(0, 2**32))
def test_an_image_in_its_own_style_is_itself(size: int, band: float, seed: int) -> None:
    images = noise(size, seed)
    assert torch.allclose(in_style(images, images, band), images, atol=1e-5)


@settings(max_examples=25, deadline=None)
@example(4, 0.5 - 2**-54, 0)  # just below a frequency
@given(st.integers(3, 20), st.floats(0, 0.5), st.integers(0, 2**32))
def test_low_amplitudes_are_the_style_s_and_all_else_is_the_image_s(
    size: int, band: float, seed: int
) -> None:
    """Against the whole transform in numpy; there every frequency has its own entry."""
    images, styles = noise(size, seed), noise(size, seed + 1)
    made, own, wanted = (np.fft.fft2(each.double().numpy()) for each in (
        in_style(images, styles, band), images, styles))  # fmt: skip
    frequencies = np.abs(np.fft.fftfreq(size))
    low = (frequencies[:, None] <= band) & (frequencies <= band)
    assert np.abs(made)[..., low] == pytest.approx(np.abs(wanted)[..., low], abs=1e-3)
    assert made[..., ~low] == pytest.approx(own[..., ~low], abs=1e-3)
    turned = made * np.conj(own)  # equal phases: real and not negative
    assert turned.real.min() > -1e-2
    assert np.abs(turned.imag).max() < 1e-2


def test_without_a_band_only_each_channel_s_size_of_the_mean_is_taken() -> None:
    images, styles = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8) + 1
    made = in_style(images, styles, 0.0)
    assert torch.allclose(made.mean((2, 3)), styles.mean((2, 3)), atol=1e-5)
    flat = images - images.mean((2, 3), keepdim=True)
    assert torch.allclose(made - made.mean((2, 3), keepdim=True), flat, atol=1e-5)


def test_domains_show_the_source_in_the_target_s_style_with_its_own_labels(student: Student) -> None:
    plain, styled = (student(params=PARAMS.model_copy(update={"fourier": band}))[1] for band in (0.0, 0.2))
    (before, labels), (after, same) = plain.source(3), styled.source(3)
    assert torch.equal(labels, same)
    assert before.shape == after.shape
    assert styled.source.share == len(after)
    assert styled.steps_per_epoch == plain.steps_per_epoch
    means, target = (each.mean((2, 3)) for each in (after, styled.source.target(3)[0]))
    assert torch.allclose(means.abs(), target.abs(), atol=1e-4)
    assert not torch.allclose(before, after, atol=0.1)
    assert torch.equal(plain.target(3)[0], styled.target(3)[0])
    assert torch.equal(styled.source(3)[0], after)  # a function of the step, as a resumed run needs


def test_a_band_beyond_the_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="fourier"):
        type(PARAMS)(fourier=0.6)
