"""The number format follows the hardware or what is asked, and both formats say the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graft.backbones.classifier import Classifier
from graft.backbones.engine import cosines
from graft.backbones.features import extract
from graft.backbones.precision import autocast, computing_in, has_bfloat16, in_words, lay_out, number_format
from graft.backbones.trunk import build
from graft.errors import GraftError
from graft.params import Params, parse
from graft.params.sections import FeatureExtraction

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=["amx_bf16", "avx512_bf16", "none"])
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this CPU, and the GPU that is not there, have units for bfloat16."""
    abilities = {"avx2": True, "avx512_f": True, request.param: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    has = request.param != "none"
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation
    )
    return has


def test_auto_follows_the_hardware(units: bool) -> None:
    wanted = torch.bfloat16 if units else torch.float32
    for device in (CPU, GPU):
        assert has_bfloat16(device) == units
        assert number_format(device) == wanted
    with autocast(CPU):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == wanted
    assert in_words(CPU) == f"{'bfloat16' if units else 'float32'} on cpu"


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_wins_and_ends_with_its_block(units: bool, asked: str) -> None:
    before = number_format(CPU)
    with computing_in("bfloat16"), computing_in(asked):
        assert number_format(CPU) == number_format(GPU) == getattr(torch, asked)
    assert number_format(CPU) == before
    with pytest.raises(ValueError, match="float16"), computing_in("float16"):
        pass


def formats_inside(model: nn.Module) -> list[torch.dtype]:
    """Fills up with the format of every result of a convolution or a linear layer."""
    seen: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    return seen


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_features_are_computed_in_what_is_asked(asked: str) -> None:
    trunk, config = build("digits_cnn")
    seen = formats_inside(trunk)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    other = torch.bfloat16 if asked == "float32" else torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=other == torch.bfloat16), computing_in(asked):
        assert extract(trunk, config, pixels, batch_size=2).dtype == torch.float32
    assert set(seen) == {getattr(torch, asked)}


@pytest.mark.parametrize("name", ["digits_cnn", "dann_cnn", "resnet20"])
def test_features_in_bfloat16_agree_with_float32(name: str) -> None:
    """Every image's to a cosine of at least 0.995."""
    trunk, config = build(name)
    size = config.preprocessing.resize_size
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    found = {}
    for asked in ("float32", "bfloat16"):
        with computing_in(asked):
            found[asked] = extract(trunk, config, pixels, batch_size=2).numpy()
    assert (found["float32"] != found["bfloat16"]).any()
    assert cosines(found["float32"], found["bfloat16"]).min() >= 0.995


def test_predictions_and_the_features_that_are_compared_between_machines_stay_in_float32() -> None:
    trunk, config = build("digits_cnn")
    model = Classifier(trunk, nn.Linear(128, 2), config=config, classes=["a", "b"])
    seen = formats_inside(model)
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with computing_in("bfloat16"):
        model.features_pixels(pixels)
        model.predict_pixels(pixels)
    assert set(seen) == {torch.float32}


def test_the_layout_changes_no_value() -> None:
    trunk, _ = build("resnet20")
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    parameters = list(trunk.parameters())
    lay_out(trunk)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())
    assert all(one is two for one, two in zip(parameters, trunk.parameters(), strict=True))
    weights: list[Tensor] = [each for each in parameters if each.ndim == 4]
    assert weights
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in weights)


@pytest.mark.parametrize("section", ["feature_extraction", "fine_tuning", "domain_adaptation"])
def test_another_format_is_refused(section: str) -> None:
    model = type(getattr(Params(), section))
    with pytest.raises(GraftError, match="precision = 'float16'"):
        parse(model, {"precision": "float16"}, f"params: {section}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine", "tensorrt"),
        ("store", "gs://bucket/features"),
        ("store", "s3://"),
        ("store_limit", "10 apples"),
    ],
)
def test_an_unknown_engine_or_store_is_refused(key: str, value: str) -> None:
    with pytest.raises(GraftError, match=f"{key} = '{value}'"):
        parse(FeatureExtraction, {key: value}, "params: feature_extraction")
