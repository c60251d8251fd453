"""What people use today, run as its authors teach it: the side that graft's methods are measured against.

Each function trains on `folder/train/<class>/*` and gives the accuracy on `folder/test/<class>/*` after the
last epoch. `network` is mobilenet_v2 or resnet18; without weights it is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graft  # noqa: F401 - lets torchvision import beside a CPU build of torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fastai_fine_tune(
    folder: Path, weights: Path | None, *, epochs: int, seed: int, network: str = "mobilenet_v2"
) -> float:
    """fastai's `fine_tune` with its defaults: one epoch of the head, then all layers in one cycle.

    Data as in fastai's own transfer-learning examples: resize, then `aug_transforms(size=224)` on batches.
    """
    from fastai.vision.all import (
        ImageDataLoaders,
        Learner,
        Normalize,
        Resize,
        accuracy,
        apply_init,
        aug_transforms,
        create_head,
        default_split,
        set_seed,
    )

    set_seed(seed, reproducible=True)
    loaders = ImageDataLoaders.from_folder(
        folder,
        train="train",
        valid="test",
        bs=32,
        seed=seed,
        num_workers=0,
        item_tfms=Resize(256),
        batch_tfms=[*aug_transforms(size=224, min_scale=0.75), Normalize.from_stats(MEAN, STD)],
    )
    whole = _network(network, weights)
    # What vision_learner makes of an architecture; it cannot find where to cut MobileNetV2.
    body = whole.features if network == "mobilenet_v2" else nn.Sequential(*list(whole.children())[:-2])
    model = nn.Sequential(body, create_head(_last(whole).in_features, loaders.c))
    learner = Learner(loaders, model, metrics=accuracy, splitter=default_split)
    apply_init(model[1], nn.init.kaiming_normal_)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs - 1, freeze_epochs=1)
        return float(learner.validate()[1])


def tutorial(folder: Path, weights: Path, *, epochs: int, seed: int, fixed: bool = False) -> float:
    """The loop of PyTorch's transfer-learning tutorial, MobileNetV2; see `tutorial_epochs`."""
    *_, model = tutorial_epochs(folder, weights, epochs=epochs, seed=seed, fixed=fixed)
    return accuracy_on_test(model, folder)


def tutorial_epochs(
    folder: Path,
    weights: Path | None,
    *,
    epochs: int,
    seed: int,
    fixed: bool = False,
    network: str = "mobilenet_v2",
) -> Iterator[nn.Module]:
    """The tutorial's SGD with momentum, batches of 4: the network after each epoch.

    Args:
        fixed: Its second half: features fixed, only the new last layer learns.
    """
    from torchvision import transforms

    torch.manual_seed(seed)
    train = _images(folder / "train", transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip())
    model = _network(network, weights)
    model.requires_grad_(not fixed)
    last = nn.Linear(_last(model).in_features, len(train.classes))
    if network == "mobilenet_v2":
        model.classifier[1] = last
    else:
        model.fc = last
    learning = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for _ in range(epochs):
        model.train()
        for inputs, labels in torch.utils.data.DataLoader(train, batch_size=4, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        schedule.step()
        yield model


@torch.inference_mode()
def accuracy_on_test(model: nn.Module, folder: Path) -> float:
    """On the test images, prepared as the tutorial does."""
    from torchvision import transforms

    test = _images(folder / "test", transforms.Resize(256), transforms.CenterCrop(224))
    model.eval()
    batches = torch.utils.data.DataLoader(test, batch_size=32)
    right = [(model(inputs).argmax(1) == labels).float() for inputs, labels in batches]
    return float(torch.cat(right).mean())


def _images(folder: Path, *crop: nn.Module) -> Any:
    from torchvision import datasets, transforms

    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return datasets.ImageFolder(folder, transforms.Compose([*crop, *end]))


def _network(name: str, weights: Path | None) -> nn.Module:
    from torchvision import models

    model: nn.Module = getattr(models, name)()
    if weights:
        model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def _last(model: nn.Module) -> nn.Linear:
    """The layer that gives the answers."""
    return [each for each in model.modules() if isinstance(each, nn.Linear)][-1]
