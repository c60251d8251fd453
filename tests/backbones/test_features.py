"""Frozen is frozen: extracting features changes nothing in a network."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.features import evaluating, extract
from graft.backbones.precision import computing_in
from graft.backbones.trunk import build
from graft.backbones.weights import prepare
from graft.params import Backbone


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
def test_no_tensor_and_no_mode_changes(name: str) -> None:
    trunk, config = build(name)
    trunk.train()
    trunk.stages[0][1].eval()  # a frozen stage in a network that trains
    modes = [module.training for module in trunk.modules()]
    state = copy.deepcopy(trunk.state_dict())
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    features = extract(trunk, config, pixels, batch_size=2)
    assert features.shape == (5, config.num_features)
    assert features.dtype == torch.float32
    assert [module.training for module in trunk.modules()] == modes
    assert True in modes
    assert False in modes
    assert all(torch.equal(state[key], value) for key, value in trunk.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in trunk.parameters())


@pytest.mark.usefixtures("float32")
def test_cores_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, config = build("resnet20")
    pixels = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    formats = set()
    trunk.network.register_forward_hook(lambda _module, _inputs, output: formats.add(output.dtype))
    found = {}
    for cores in (1, 3, 20):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        found[cores] = extract(trunk, config, pixels, batch_size=5)
        with computing_in("bfloat16"):
            extract(trunk, config, pixels, batch_size=5)
    assert formats == {torch.float32, torch.bfloat16}  # what is asked reaches every core
    assert torch.allclose(found[1], found[3], atol=1e-5)
    assert torch.allclose(found[1], found[20], atol=1e-5)


def test_features_can_train_a_head() -> None:
    trunk, config = build("digits_cnn")
    features = extract(trunk, config, torch.zeros(4, 3, 32, 32, dtype=torch.uint8), batch_size=4)
    head = nn.Linear(128, 2)
    head(features).sum().backward()
    assert head.weight.grad is not None


def test_modes_return_after_a_failure() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Dropout())
    network[1].eval()

    def fail() -> None:
        with evaluating(network):
            assert not network[0].training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [module.training for module in network] == [True, False]


@pytest.mark.photos
def test_published_mobilenet_recognises_photographs(shared: Path) -> None:
    """84 % of the 1000 sample photographs in their full size, 82 % of these smaller copies."""
    file = shared / "weights" / "mobilenet_v2-imagenet-qnnpack-dequant.pth"
    trunk, config = prepare(Backbone(name="mobilenet_v2", weights=str(file), sha256="d7fcb937"))
    published = torch.load(file, weights_only=True)
    head = nn.Linear(1280, 1000)
    head.load_state_dict({name: published[f"classifier.1.{name}"] for name in ("weight", "bias")})
    model = Classifier(trunk, head, config=config, classes=[str(i) for i in range(1000)])
    with zipfile.ZipFile(shared / "data" / "imagenet_sample_256.zip") as archive:
        names = sorted(n for n in archive.namelist() if Path(n).name.startswith("n"))
        names = [n for n in names if n.lower().endswith((".jpg", ".jpeg"))]
        chosen = range(0, 1000, 20)
        contents = [archive.read(names[i]) for i in chosen]
    assert len(names) == 1000  # one per class, in the order of the classes
    right = model.predict(contents).argmax(1) == np.array(chosen)
    assert right.mean() >= 0.8
