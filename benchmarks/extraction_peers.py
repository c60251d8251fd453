"""Frozen features of the JPEG files in a folder: graft, and what people use today as its authors teach it.

    python benchmarks/extraction_peers.py CONTENDER NETWORK FOLDER SHARED

prepares one contender, then works on each line it is sent: the number of images and the file that
receives the features. It answers with the seconds from the files to the features.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import graft  # noqa: F401 - lets torchvision import beside a CPU build of torch

BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOBILENET = "mobilenet_v2-imagenet-qnnpack-dequant.pth"
TIMM = {"resnet18": "resnet18", "mobilenet_v2": "mobilenetv2_100"}
Contender = Callable[
    [int], np.ndarray | None
]  # the first so many images -> features (N, F), or their classes


def ours(network: str, folder: Path, shared: Path) -> Contender:
    """As the step feature_extraction computes what its store does not have, with its defaults."""
    from graft.backbones.features import extractor
    from graft.backbones.inputs import stack_pixels
    from graft.params import FeatureExtraction

    trunk, config = backbone(network, shared)
    params, files = FeatureExtraction(), jpegs(folder)

    def run(count: int) -> np.ndarray:
        features_of = extractor(trunk, config, params.batch_size, engine=params.engine, images=count)
        pixels = stack_pixels(files[:count], config.preprocessing)
        return features_of(pixels, "features").numpy()

    return run


def plain(network: str, folder: Path, shared: Path) -> Contender:
    """torchvision's transforms and ImageFolder, PyTorch's DataLoader with a process for each core."""
    from torchvision import datasets, models, transforms

    torch.manual_seed(0)
    model = getattr(models, network)()
    if network == "mobilenet_v2":
        model.load_state_dict(torch.load(shared / "weights" / MOBILENET, weights_only=True))
        model.classifier = nn.Identity()
    else:
        model.load_state_dict(state_of_ours(network, shared), strict=False)
        model.fc = nn.Identity()
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    images = datasets.ImageFolder(folder, transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    return _loop(model.eval(), images)


def timm_loop(network: str, folder: Path, _shared: Path) -> Contender:
    """timm's way to features: num_classes=0, and the transform that the model's own data config asks for."""
    import timm
    from torchvision import datasets

    model = timm.create_model(TIMM[network], pretrained=False, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    return _loop(model, datasets.ImageFolder(folder, transform))


def hugging_face(network: str, folder: Path, _shared: Path) -> Contender:
    """`datasets` and the image-classification pipeline of transformers, with timm's network in it.

    From a hub it would come with weights; here it has random ones, which cost the same.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder.parent / "hf")}
    from datasets import load_dataset
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, pipeline
    from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
    from transformers.pipelines.pt_utils import KeyDataset

    config = TimmWrapperConfig(architecture=TIMM[network], num_labels=1000)
    model = TimmWrapperForImageClassification(config).eval()
    processor = TimmWrapperImageProcessor(pretrained_cfg=model.timm_model.pretrained_cfg)
    classify = pipeline("image-classification", model=model, image_processor=processor, device=-1)
    # Named, since a file such as n02917067_bullet_train.JPEG would else be taken for the split of that name.
    images = load_dataset("imagefolder", data_files={"train": f"{folder}/**"}, split="train")

    def run(count: int) -> None:
        chosen = KeyDataset(images.select(range(count)), "image")
        found = list(classify(chosen, batch_size=BATCH, num_workers=len(os.sched_getaffinity(0))))
        assert len(found) == count

    return run


CONTENDERS = {
    "graft": ours,
    "torchvision + DataLoader": plain,
    "timm + DataLoader": timm_loop,
    "datasets + transformers pipeline": hugging_face,
}


def backbone(network: str, shared: Path):  # type: ignore[no-untyped-def]
    """A trunk and its config, MobileNetV2 with ImageNet weights and ResNet-18 with random ones."""
    from graft.backbones.weights import prepare
    from graft.params import Backbone

    weights = str(shared / "weights" / MOBILENET) if network == "mobilenet_v2" else "random"
    return prepare(Backbone(name=network, weights=weights))


def state_of_ours(network: str, shared: Path) -> dict[str, torch.Tensor]:
    """graft's weights by torchvision's names."""
    return backbone(network, shared)[0].network.state_dict()


def jpegs(folder: Path) -> list[Path]:
    """In the order in which ImageFolder reads them."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))


def _loop(model: nn.Module, images: torch.utils.data.Dataset) -> Contender:
    def run(count: int) -> np.ndarray:
        chosen = torch.utils.data.Subset(images, range(count))
        workers = len(os.sched_getaffinity(0))
        loader = torch.utils.data.DataLoader(chosen, batch_size=BATCH, num_workers=workers)
        with torch.inference_mode():
            return torch.cat([model(inputs) for inputs, _ in loader]).numpy()

    return run


def main() -> None:
    """Work until there is nothing more to read."""
    name, network, folder, shared = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries talk
    run = CONTENDERS[name](network, Path(folder), Path(shared))
    run(min(BATCH, len(jpegs(Path(folder)))))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        count, file = json.loads(line)
        start = time.monotonic()
        features = run(count)
        seconds = time.monotonic() - start
        if file and features is not None:
            np.save(file, features)
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
