"""A training step in bfloat16 is that of float32 within a tolerance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graft.backbones.classifier import Classifier
from graft.backbones.precision import computing_in
from graft.backbones.trunk import build
from graft.images.augmentation import policy
from graft.images.table import ImageTable
from graft.methods import train
from graft.params import Augmentation, FineTuning
from graft.training.groups import adamw, parameter_groups
from graft.training.loop import Phase, fit, measure
from graft.training.supervised import cross_entropy, domain_batches, labelled_index


def classifier(name: str) -> Classifier:
    trunk, config = build(name)
    torch.manual_seed(0)
    head = nn.Linear(config.num_features, 3)
    return Classifier(trunk, head, config=config, classes=["bar", "disc", "frame"])


def gradients(name: str, table: ImageTable, asked: str) -> tuple[float, Tensor]:
    """The loss of the first step, and its gradient."""
    model = classifier(name).train()
    drawn = policy(Augmentation(), model.config.preprocessing)
    index = labelled_index(table, "train")
    streams = domain_batches(table, index, model.config.preprocessing, drawn, batch_size=32, seed=0)
    with computing_in(asked):
        value, numbers = measure(model, cross_entropy(model, streams, 0.1), 0, seed=0)
        value.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(each.dtype == torch.float32 for each in found)
    return numbers["loss"], torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
def test_loss_and_gradient_in_bfloat16_agree_with_float32(name: str, table: ImageTable) -> None:
    """The loss within 1 %, the gradient to a cosine of at least 0.98 and a length within 5 %."""
    loss, gradient = gradients(name, table, "float32")
    lower_loss, lower = gradients(name, table, "bfloat16")
    assert not torch.equal(gradient, lower)
    assert lower_loss == pytest.approx(loss, rel=0.01)
    assert torch.cosine_similarity(gradient, lower, dim=0) >= 0.98
    assert lower.norm().item() == pytest.approx(gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_training_computes_in_what_params_ask_for(
    asked: str, table: ImageTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = classifier("digits_cnn")
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    model.head.register_forward_hook(lambda head, _inputs, output: seen[head.training].add(output.dtype))
    params = FineTuning(method="all", epochs=1, precision=asked)
    drawn = policy(Augmentation(), model.config.preprocessing)
    trained, _ = train(table, model, drawn, params, work=tmp_path)
    assert seen[True] == {getattr(torch, asked)}
    assert all(p.dtype == torch.float32 for p in trained.parameters())
    assert f"all: training in {asked} on" in capsys.readouterr().err


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    pointwise = nn.Conv2d(8, 16, 1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        depthwise,
        pointwise,
        nn.Flatten(),
        nn.Linear(16, 2),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_optimiser_takes_the_same_steps(layout: torch.memory_format) -> None:
    """Within rounding, for weights in any layout; gradients need not have the same one."""
    one, two = convolutional(), convolutional().to(memory_format=layout)  # type: ignore[call-overload]
    plain = torch.optim.AdamW(parameter_groups(one, 0.1), lr=0.01, foreach=False)
    fused = adamw(two, 0.01, 0.1)
    assert fused.defaults["fused"]
    for step in range(20):
        inputs = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((one, plain), (two, fused)):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    for name, tensor in one.state_dict().items():
        assert torch.allclose(two.state_dict()[name], tensor, atol=1e-4), name


def test_a_convolution_is_trained_channels_last_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    def loss(model: nn.Module, stop_at: int | None = None):  # type: ignore[no-untyped-def]
        def value(step: int) -> tuple[Tensor, dict[str, float]]:
            if step == stop_at:
                raise KeyboardInterrupt
            inputs = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(step))
            return model(inputs).square().mean(), {}

        return value

    phase = Phase(name="p", epochs=3, steps_per_epoch=3, learning_rate=0.01)
    through, killed, resumed = convolutional(), convolutional(), convolutional()
    fit(through, loss(through), phase, work=tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        fit(killed, loss(killed, 5), phase, work=tmp_path / "killed")
    fit(resumed, loss(resumed), phase, work=tmp_path / "killed")
    assert through[0].weight.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
