"""Trains tiny networks, alone or as one of the processes of torchrun; `test_distributed.py` compares.

Usage: processes.py TABLE OUT; writes OUT/<rank>.pt with the history and the weights of each run.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.precision import computing_in
from graft.images.augmentation import policy
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable, read_table
from graft.params import Augmentation
from graft.training.distributed import join, rank
from graft.training.freezing import freeze
from graft.training.loop import Loss, Phase, fit
from graft.training.schedules import one_cycle
from graft.training.supervised import cross_entropy, domain_batches, labelled_index

SIZES = Preprocessing(input_size=16, resize_size=18)
PHASE = Phase(name="p", epochs=3, steps_per_epoch=4, learning_rate=0.01, weight_decay=0.1)


def convolutional(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    torch.manual_seed(rank())  # the first process's weights must reach the others
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), norm(8), nn.ReLU())
    stage = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(4, 16), nn.ReLU())
    return nn.Sequential(stem, stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def frozen_stem(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    model = convolutional(norm)
    freeze(model[0])
    return model


class Branches(nn.Module):
    """`rare` learns from the third class alone, so some slices of a batch miss it; `idle` never does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.common, self.rare, self.idle = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)


def branching(model: Branches) -> Loss:
    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(step)
        inputs, labels = torch.randn(4, 4, generator=generator), torch.tensor([0, 1, 2 - step % 2, 1])
        mine = slice(2 * rank(), 2 * rank() + 2) if torch.distributed.is_initialized() else slice(None)
        inputs, labels = inputs[mine], labels[mine]
        value = functional.cross_entropy(model.common(inputs), labels)
        if bool((labels == 2).any()):
            rare = functional.cross_entropy(model.rare(inputs), labels, reduction="none")
            value = value + (rare * (labels == 2)).sum() / len(labels)
        return value, {}

    return loss


def interrupted(loss: Loss, at: int) -> Loss:
    def broken(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == at:
            raise KeyboardInterrupt
        return loss(step)

    return broken


def poisoned(loss: Loss, at: int) -> Loss:
    """Not finite in one process only: all must end alike."""

    def bad(step: int) -> tuple[Tensor, dict[str, float]]:
        value, logs = loss(step)
        last = torch.distributed.get_world_size() - 1 if torch.distributed.is_initialized() else 0
        return (value * float("nan") if step == at and rank() == last else value), logs

    return bad


def main(table: ImageTable, out: Path) -> None:
    index = labelled_index(table, "train")

    def supervised(model: nn.Module, **augmentation: Any) -> Loss:
        drawn = policy(Augmentation(**augmentation), SIZES)
        streams = domain_batches(table, index, SIZES, drawn, batch_size=16, seed=3)
        return cross_entropy(model, streams, 0.1)  # type: ignore[arg-type]

    averaged = Phase(**{**vars(PHASE), "ema": 0.9, "schedule": one_cycle})
    by_rank = {"val_accuracy": 1.0 - rank(), "val_loss": 1.0}  # what a process decides alone would differ
    patient = Phase(**{**vars(PHASE), "patience": 1})
    done: dict[str, Any] = {}

    def run(name: str, model: nn.Module, loss: Loss, phase: Phase, **more: Any) -> None:
        history = fit(model, loss, phase, work=out / f"work-{name}", **more)
        done[name] = {"history": history, "weights": dict(model.state_dict())}

    for name, model in {
        "frozen": frozen_stem(nn.BatchNorm2d),
        "free": convolutional(lambda width: nn.GroupNorm(2, width)),
        "statistics": convolutional(nn.BatchNorm2d),
    }.items():
        run(name, model, supervised(model, mixup=0.4), averaged)
    branches = Branches()
    run("branches", branches, branching(branches), PHASE)
    early = convolutional(nn.BatchNorm2d)
    run("early", early, supervised(early), patient, validate=lambda: by_rank)
    bad = convolutional(nn.BatchNorm2d)
    run("diverged", bad, poisoned(supervised(bad), 6), PHASE)
    killed, resumed = convolutional(nn.BatchNorm2d), convolutional(nn.BatchNorm2d)
    try:
        run("resumed", killed, interrupted(supervised(killed, mixup=0.4), 9), averaged)
    except KeyboardInterrupt:
        run("resumed", resumed, supervised(resumed, mixup=0.4), averaged)
    torch.save(done, out / f"{rank()}.pt")


if __name__ == "__main__":
    with join(), computing_in("float32"):  # in bfloat16, halves of a batch round otherwise than the whole
        main(read_table(sys.argv[1]), Path(sys.argv[2]))
