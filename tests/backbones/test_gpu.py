"""The way to features on a GPU; on a CPU the same code runs but for copies ahead and the graph."""

import pytest
import torch
from torch import nn

from graft.backbones import gpu
from graft.backbones.features import extract, extractor
from graft.backbones.gpu import captured, on_gpu
from graft.backbones.precision import computing_in
from graft.backbones.trunk import build

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and there is none")


def images(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def test_features_are_those_of_torch() -> None:
    trunk, config = build("digits_cnn")
    trunk.eval()
    pixels = images(21, config.preprocessing.resize_size)
    found = torch.empty(21, config.num_features)
    with computing_in("float32"):
        on_gpu(trunk, config.preprocessing, 8, pixels, "digits_cnn", images=21)(pixels, found)
        wanted = extract(trunk, config, pixels, 8)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fault", ["a kernel waits for the device", "wrong"])
def test_what_cannot_be_captured_is_launched(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(network: gpu.Network, _example: torch.Tensor) -> gpu.Network:
        if fault == "wrong":
            return lambda batch: -network(batch)
        raise RuntimeError(f"{fault}\nmore")

    monkeypatch.setattr(gpu, "captured", broken)
    assert gpu._checked(lambda batch: batch.float().flatten(1) + 1, images(4, 8), "some network") is None
    said = capsys.readouterr().err
    assert "some network: no CUDA graph" in said
    assert ("cosine of -1.0000" if fault == "wrong" else fault) in said
    assert "more" not in said


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_graph_gives_what_its_kernels_give(precision: str) -> None:
    device = torch.device("cuda")
    trunk, config = build("resnet18")
    trunk.to(device).eval()
    pixels = images(40, config.preprocessing.resize_size)
    with computing_in(precision), torch.inference_mode():
        launched = gpu._launched(trunk, config.preprocessing, device)
        replay = captured(launched, pixels[:16].to(device))
        for start in (0, 16):
            batch = pixels[start : start + 16].to(device)
            torch.testing.assert_close(replay(batch).clone(), launched(batch))
        features = extractor(trunk, config, 16, engine="torch", images=1000)(pixels, "features")
        wanted = torch.cat([launched(part.to(device)) for part in pixels.split(16)]).cpu()
    torch.testing.assert_close(features, wanted, rtol=1e-2, atol=1e-2)


@needs_gpu
def test_a_network_that_waits_for_the_device_is_not_captured() -> None:
    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) * float(x.mean().item())

    network = Waits().cuda()
    assert gpu._checked(lambda batch: network(batch.float()), images(4, 8).cuda(), "waits") is None
