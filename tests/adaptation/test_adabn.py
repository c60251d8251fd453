from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graft.adaptation.adabn import adabn
from graft.backbones.trunk import build
from graft.errors import GraftError
from graft.images.loading import load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.params import DomainAdaptation
from graft.training.freezing import freeze
from graft.training.statistics import batch_norms, target_statistics
from tests.adaptation.shifts import blind
from tests.methods.learning import classifier, same

PLAIN = Preprocessing(input_size=8, resize_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
STATISTICS = ("running_mean", "running_var")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten()
    )


def images(count: int, seed: int = 0, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_statistics_are_those_of_the_whole_set(batch_size: int) -> None:
    """Also where the batches are not of equal size."""
    trunk, pixels = network(), torch.cat([images(10), images(7, seed=1, low=200)])
    target_statistics(trunk, pixels, PLAIN, batch_size=batch_size, seed=0)
    with torch.no_grad():
        inputs = trunk[0](pixels.float() / 255)
    assert torch.allclose(trunk[1].running_mean, inputs.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(trunk[1].running_var, inputs.var((0, 2, 3)), rtol=1e-5)


def test_nothing_else_changes() -> None:
    trunk = network()
    trunk.train()
    trunk[2].eval()
    modes = [part.training for part in trunk.modules()]
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    target_statistics(trunk, images(9), PLAIN, batch_size=4, seed=0)
    assert [part.training for part in trunk.modules()] == modes
    assert (trunk[1].momentum, trunk[1].track_running_stats) == (0.3, True)
    assert not trunk[1]._forward_pre_hooks
    for name, tensor in trunk.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.endswith(STATISTICS)


def test_all_is_as_it_was_after_an_error() -> None:
    trunk = network().train()
    trunk[3].forward = lambda x: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        target_statistics(trunk, images(4), PLAIN, batch_size=4, seed=0)
    assert all(part.training and getattr(part, "track_running_stats", True) for part in trunk.modules())
    assert not trunk[1]._forward_pre_hooks


def test_a_frozen_trunk_is_measured_too() -> None:
    loose, frozen = network(), network()
    freeze(frozen)
    for trunk in (loose, frozen):
        target_statistics(trunk, images(9), PLAIN, batch_size=4, seed=0)
    assert torch.equal(loose[1].running_mean, frozen[1].running_mean)
    assert torch.equal(loose[1].running_var, frozen[1].running_var)


def test_a_second_time_changes_nothing() -> None:
    """So where the target is as the source was, nothing does; deep layers included."""
    trunk, _ = build("digits_cnn", seed=0)
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    prepared = Preprocessing(input_size=32, resize_size=32)
    found = []
    for _ in range(2):
        target_statistics(trunk, pixels, prepared, batch_size=10, seed=0)
        found.append([layer.running_var.clone() for layer in batch_norms(trunk)])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_deep_layers_agree_with_what_evaluation_gives_them() -> None:
    trunk, _ = build("digits_cnn", seed=0)
    pixels = images(60).repeat(1, 1, 4, 4)
    prepared = Preprocessing(input_size=32, resize_size=32)
    target_statistics(trunk, pixels, prepared, batch_size=60, seed=0)
    reached: dict[nn.Module, Tensor] = {}
    layers = batch_norms(trunk)
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, inputs: reached.__setitem__(module, inputs[0]))
    with torch.no_grad():
        trunk.eval()(prepared.normalise(pixels))
    for layer in layers:
        axes = [axis for axis in range(reached[layer].ndim) if axis != 1]
        assert torch.allclose(layer.running_mean, reached[layer].mean(axes), atol=2e-2)
        assert torch.allclose(layer.running_var, reached[layer].var(axes), rtol=5e-2, atol=1e-3)


def test_a_change_of_brightness_and_contrast_is_undone() -> None:
    """Features of BatchNorm see (x - mean) / deviation: of images a x + b the same as of x."""
    pixels = images(200)
    labels = np.arange(200) % 2
    pixels[labels == 1, 0] //= 2  # red is what tells
    dim = (pixels.float() * 0.3 + 150).to(torch.uint8)
    trunk = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    trunk.register_parameter("anything", nn.Parameter(torch.zeros(1)))  # says which device

    def accuracy(images_now: Tensor) -> float:
        with torch.no_grad():
            red = trunk.eval()(images_now.float() / 255)[:, 0]
        return float(((red < 0).numpy() == labels).mean())

    target_statistics(trunk, pixels, PLAIN, batch_size=32, seed=0)
    assert accuracy(pixels) > 0.95
    assert accuracy(dim) < 0.6
    target_statistics(trunk, dim, PLAIN, batch_size=32, seed=0)
    assert accuracy(dim) > 0.95


def test_the_start_stays_and_the_copy_has_the_targets_statistics(table: ImageTable) -> None:
    model, untouched = classifier(table), classifier(table)
    made, rows = adabn(table, model, DomainAdaptation(batch_size=16))
    assert same(model, untouched)
    target = table.select(split=["train", "unlabeled"], domain="target")
    assert rows == [{"phase": "adabn", "images": len(target), "layers": len(batch_norms(model.trunk))}]
    pixels = load_images(table, target, model.config.preprocessing).pixels
    with torch.no_grad():
        convolution = made.trunk.network.block1[0]
        first = convolution(model.config.preprocessing.normalise(pixels))
    assert torch.allclose(made.trunk.network.block1[1].running_mean, first.mean((0, 2, 3)), atol=1e-5)
    changed = {name for name, x in made.state_dict().items() if not torch.equal(x, model.state_dict()[name])}
    assert changed
    assert all(name.endswith(STATISTICS) for name in changed)


def test_labels_of_the_target_make_no_difference(table: ImageTable) -> None:
    params = DomainAdaptation(batch_size=16)
    assert same(*(adabn(each, classifier(table), params)[0] for each in (table, blind(table))))


def test_a_network_without_batch_norm_is_named(table: ImageTable) -> None:
    model = classifier(table)
    for part in list(model.trunk.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(part, name, nn.Identity())
    with pytest.raises(GraftError, match=r"digits_cnn has no BatchNorm.*\n.*another method"):
        adabn(table, model, DomainAdaptation())
