"""How near the hardware's limit training and frozen features are: the same code on a GPU and on a CPU.

    python benchmarks/device.py > benchmarks/device.md
    python benchmarks/device.py --network resnet18 --images 128 --batch 32 --repetitions 5    # on a CPU

Images are random pixels as decoding keeps them, uint8; weights are random: neither changes the time.
"training" is graft's own step (augmentation, both passes, AdamW) on batches drawn from memory. "features" is
graft's extractor, from pixels in memory to features in memory; "on the device" the same network over one
normalised batch that lies there already. They take turns.

The roofs are measured here as well: arithmetic is what a large product of matrices reaches in the same number
format, divided by the network's operations (three times as many to train); bringing is the rate at which
pixels go from memory to the device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
from chain import machine
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.classifier import Classifier
from graft.backbones.features import batches, extractor
from graft.backbones.precision import autocast, computing_in, in_words, lay_out, number_format
from graft.backbones.trunk import build
from graft.images.augmentation import policy
from graft.images.loading import Images
from graft.params import Augmentation
from graft.training.batches import Batches
from graft.training.device import best_device
from graft.training.groups import adamw, same_rate
from graft.training.loop import take_step
from graft.training.supervised import cross_entropy

CLASSES = 10
STEPS = 8  # of training a repetition
SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices


def main() -> None:
    """Measure in turns, and print the table."""
    given = options()
    with computing_in(given.precision):
        print(report(given), end="")


def report(given: argparse.Namespace) -> str:
    """Markdown."""
    device = best_device()
    trunk, config = build(given.network)
    head = torch.nn.Linear(config.num_features, CLASSES)
    model = Classifier(trunk, head, config=config, classes=[str(n) for n in range(CLASSES)]).to(device)
    images = random_images(given.images, config.preprocessing.resize_size)
    ways = {
        "training": training(model, images, given.batch),
        "features": features(model, images, given.batch),
        "features, on the device": on_the_device(model, images, given.batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(given.repetitions + 1):
        for name, way in ways.items():
            rate = clocked(way, device)
            if repetition:  # the first one warms up
                rates[name].append(rate)
    arithmetic = peak(device) / operations(model)
    roofs = {"training": arithmetic / 3, "features": arithmetic, "features, on the device": arithmetic}
    lines = [
        f"# {given.network} near the hardware's limit\n",
        f"{machine()}; {name_of(device)}, {in_words(device)}. {given.images} images of "
        f"{config.preprocessing.input_size} px, {given.batch} at a time; medians of {given.repetitions}.\n",
        "| | images/s | arithmetic's roof | share |\n|---|---|---|---|",
    ]
    for name, found in rates.items():
        rate, roof = median(found), roofs[name]
        lines.append(f"| {name} | {rate:.0f} | {roof:.0f} | {rate / roof:.2f} |")
    shares = [a / b for a, b in zip(rates["features"], rates["features, on the device"], strict=True)]
    lines += [
        f"\nFeatures reach {median(shares):.2f} of the rate on the device. Pixels could be brought at "
        f"{bringing(images, device):.0f} images/s.\n",
    ]
    return "\n".join(lines)


def random_images(count: int, side: int) -> Images:
    """Pixels and labels that mean nothing."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    return Images(pixels, labels, pd.DataFrame(index=range(count)))


def training(model: Classifier, images: Images, batch: int) -> Callable[[], int]:
    """`STEPS` steps; gives the images seen."""
    preprocessing = model.config.preprocessing
    drawn = policy(Augmentation(mixup=0.0), preprocessing)
    stream = Batches(images, CLASSES, preprocessing, drawn, batch, seed=0, device=model.device)
    lay_out(model)
    optimizer = adamw(model, 1e-4, 0.01, same_rate)
    loss = cross_entropy(model, [stream], 0.1)

    def learn() -> int:
        model.train()
        for step in range(STEPS):
            take_step(model, optimizer, loss, step, seed=0)
        return STEPS * batch

    return learn


def features(model: Classifier, images: Images, batch: int) -> Callable[[], int]:
    """All images, from pixels in memory to features in memory, by torch."""

    def extract() -> int:
        run = extractor(model.trunk, model.config, batch, engine="torch", images=len(images))
        run(images.pixels, "features")
        return len(images)

    return extract


def on_the_device(model: Classifier, images: Images, batch: int) -> Callable[[], int]:
    """As many images, but always the same batch, which lies on the device as the network takes it."""
    x = next(batches(images.pixels[:batch], model.config.preprocessing, batch, model.device))

    @torch.inference_mode()
    def run() -> int:
        model.eval()
        rounds = max(1, len(images) // batch)
        with autocast(model.device):
            for _ in range(rounds):
                model.trunk(x)
        return rounds * len(x)

    return run


def clocked(way: Callable[[], int], device: torch.device) -> float:
    """Images per second, until the device is done."""
    wait(device)
    start = time.perf_counter()
    count = way()
    wait(device)
    return count / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(model: Classifier) -> float:
    """Floating-point operations of one image's forward pass, a multiplication and an addition being two."""
    size = model.config.preprocessing.input_size
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size, device=model.device))
    return float(counter.get_total_flops())


def peak(device: torch.device) -> float:
    """Operations per second of the best of several products of square matrices."""
    side = SIDE.get(device.type, 1024)
    a, b = (torch.randn(side, side, device=device).to(number_format(device)) for _ in range(2))
    times = []
    for _ in range(12):
        wait(device)
        start = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def bringing(images: Images, device: torch.device) -> float:
    """Images per second from memory to the device, in one copy."""
    times = []
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        images.pixels.to(device, copy=True)
        wait(device)
        times.append(time.perf_counter() - start)
    return len(images) / min(times)


def name_of(device: torch.device) -> str:
    """The GPU's name, or how many threads of the CPU torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads"


def options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
