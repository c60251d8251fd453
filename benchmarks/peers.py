"""What people use today, run as its authors teach it: the side that graft's methods are measured against.

Each function trains MobileNetV2 from the given weights on `folder/train/<class>/*` and gives the accuracy
on `folder/test/<class>/*` after the last epoch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import graft  # noqa: F401 - lets torchvision import beside a CPU build of torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fastai_fine_tune(folder: Path, weights: Path, *, epochs: int, seed: int) -> float:
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
    network = _mobilenet(weights)
    # What vision_learner makes of an architecture; it cannot find where to cut this one.
    model = nn.Sequential(network.features, create_head(network.last_channel, loaders.c))
    learner = Learner(loaders, model, metrics=accuracy, splitter=default_split)
    apply_init(model[1], nn.init.kaiming_normal_)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs - 1, freeze_epochs=1)
        return float(learner.validate()[1])


def tutorial(folder: Path, weights: Path, *, epochs: int, seed: int, fixed: bool = False) -> float:
    """The loop of PyTorch's transfer-learning tutorial: SGD with momentum, batches of 4.

    Args:
        fixed: Its second half: features fixed, only the new last layer learns.
    """
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(256), transforms.CenterCrop(224)]
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train = datasets.ImageFolder(folder / "train", transforms.Compose([*crop, *end]))
    test = datasets.ImageFolder(folder / "test", transforms.Compose([*centre, *end]))
    model = _mobilenet(weights)
    model.requires_grad_(not fixed)
    model.classifier[1] = nn.Linear(model.last_channel, len(train.classes))
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
    return _accuracy(model, torch.utils.data.DataLoader(test, batch_size=32))


@torch.inference_mode()
def _accuracy(model: nn.Module, batches: torch.utils.data.DataLoader) -> float:
    model.eval()
    right = [(model(inputs).argmax(1) == labels).float() for inputs, labels in batches]
    return float(torch.cat(right).mean())


def _mobilenet(weights: Path) -> nn.Module:
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model
