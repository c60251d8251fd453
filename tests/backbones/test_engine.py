"""Frozen networks in OpenVINO: what torch says, or torch itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graft.backbones import engine, features
from graft.backbones.classifier import Classifier
from graft.backbones.engine import cosines, openvino_package
from graft.backbones.features import extract, extractor
from graft.backbones.precision import computing_in
from graft.backbones.structures import combined, layered, positions
from graft.backbones.trunk import BackboneConfig, Trunk, build


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_pixels(count: int, config: BackboneConfig) -> Tensor:
    size = config.preprocessing.resize_size
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def network(name: str) -> tuple[Trunk, BackboneConfig]:
    trunk, config = build("resnet20")
    if name == "layers":
        return layered(trunk, config, [stage for stage, _ in trunk.stages[-2:]])
    if name == "positions":
        return positions(trunk, config)
    if name == "combined":
        return combined([(trunk, config), build("digits_cnn")])
    return build(name)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize(
    "name", ["digits_cnn", "layers", "positions", "combined", "timm/vit_tiny_patch16_224"]
)
def test_openvino_gives_what_torch_gives(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    trunk, config = network(name)
    pixels = random_pixels(11, config)
    wanted = extract(trunk, config, pixels, batch_size=4)
    found = extract(trunk, config, pixels, batch_size=4, engine="openvino")
    assert "torch does" not in capsys.readouterr().err
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    assert not found.is_inference()
    assert cosines(found.numpy(), wanted.numpy()).min() > 0.99999
    assert all(p.grad is None and p.requires_grad for p in trunk.parameters())


def test_features_do_not_depend_on_the_other_images() -> None:
    trunk, config = build("resnet20")
    run = extractor(trunk, config, 64, engine="openvino", images=100)
    pixels = random_pixels(37, config)
    whole = run(pixels, "features")
    for start, stop in ((0, 1), (5, 18), (30, 37)):
        assert torch.equal(run(pixels[start:stop], "features"), whole[start:stop])
    assert run(pixels[:0], "features").shape == (0, config.num_features)


def test_small_images_share_a_request() -> None:
    assert [engine.together(side) for side in (32, 64, 224, 232, 512)] == [32, 8, 1, 1, 1]


def not_convertible(*_: object) -> engine.Run:
    raise RuntimeError("No conversion rule found for operations: graft::unknown\nand more")


def wrong_for_one(*_: object) -> engine.Run:
    def run(pixels: Tensor, out: Tensor) -> None:
        trunk, config = build("resnet20")
        out.copy_(extract(trunk, config, pixels, batch_size=4))
        out[1] = -out[1]

    return run


def not_a_number(*_: object) -> engine.Run:
    return lambda pixels, out: out.fill_(float("nan"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (not_convertible, "No conversion rule found for operations: graft::unknown"),
        (wrong_for_one, "agree with torch's to a cosine of -1.0000 only"),
        (not_a_number, "a cosine of -1.0000 only"),
    ],
)
def test_where_it_fails_torch_does_it_and_a_line_says_so(
    fault: Any, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk, config = build("resnet20")
    pixels = random_pixels(5, config)
    monkeypatch.setattr(engine, "_compiled", fault)
    found = extract(trunk, config, pixels, batch_size=4, engine="openvino")
    told = capsys.readouterr().err
    assert told.count("OpenVINO cannot run it, so torch does") == 1
    assert reason in told
    assert torch.equal(found, extract(trunk, config, pixels, batch_size=4))


def test_auto_takes_openvino_where_there_is_work_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, config = build("resnet20")
    pixels = random_pixels(3, config)
    asked = []
    monkeypatch.setattr(features, "in_openvino", lambda *_: asked.append(True))
    extract(trunk, config, pixels, batch_size=2, engine="auto")
    assert not asked
    extractor(trunk, config, 2, engine="auto", images=10**6)(pixels, "features")
    assert asked == [True]
    with computing_in("bfloat16"):  # which this CPU would only emulate
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
        extractor(trunk, config, 2, engine="auto", images=10**6)(pixels, "features")
    assert asked == [True]
    extract(trunk, config, pixels, batch_size=2, engine="torch")
    assert asked == [True]
    with pytest.raises(ValueError, match="tensorrt"):
        extract(trunk, config, pixels, batch_size=2, engine="tensorrt")


@pytest.mark.parametrize("worth", [0, 1e12])
def test_a_predictor_answers_as_the_classifier_does(worth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WORTH", worth)
    compiled = []
    compile_ = engine._compiled
    monkeypatch.setattr(engine, "_compiled", lambda *given: compiled.append(1) or compile_(*given))
    trunk, config = build("resnet20")
    model = Classifier(trunk, nn.Linear(64, 3), config=config, classes=["a", "b", "c"])
    pixels = random_pixels(9, config)
    answer = model.predictor(images=9, batch_size=4)
    found = np.concatenate([answer(part) for part in pixels.split(5)])
    assert len(compiled) == (worth == 0)  # once for all sets
    assert np.allclose(found, model.predict_pixels(pixels), atol=1e-5)
    assert found.dtype == np.float32
    assert answer(pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize(("asked", "hint"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_threads_and_number_format_are_those_of_torch(
    asked: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openvino_package() as openvino:
        seen: dict[str, Any] = {}
        compile_model = openvino.Core.compile_model

        def noted(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
            seen.update(settings)
            return compile_model(core, model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

        monkeypatch.setattr(openvino.Core, "compile_model", noted)
        trunk, config = build("digits_cnn")
        with computing_in(asked):
            extract(trunk, config, random_pixels(2, config), batch_size=2, engine="openvino")
    assert seen["INFERENCE_NUM_THREADS"] == 1
    assert seen["INFERENCE_PRECISION_HINT"] == hint


def test_cosines_know_zeros_and_what_is_not_finite() -> None:
    one = np.array([[0, 0], [3, 4], [1, 0], [0, 0]], np.float32)
    other = np.array([[0, 0], [6, 8], [0, 1], [1, 0]], np.float32)
    assert cosines(one, other).tolist() == pytest.approx([1, 1, 0, 0])
    assert np.isnan(cosines(np.full((1, 2), np.nan), one[:1])).all()
