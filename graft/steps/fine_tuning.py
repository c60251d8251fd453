"""Step: the fine-tuned classifier, and the baseline trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.backbones.classifier import Classifier, load_classifier, save_classifier, write_skipped
from graft.backbones.trunk import load_backbone
from graft.files import write_json
from graft.images.augmentation import policy, read_policy
from graft.images.table import read_table
from graft.launching import launch
from graft.launching.job import Job
from graft.methods import train
from graft.params import FineTuning, parse
from graft.training import distributed
from graft.training.device import best_device
from graft.training.loop import History

BEST = "the epoch of each phase with the best validation accuracy"


def run(
    *,
    fine_tuning: Mapping[str, Any],
    images: Path,
    views: Path,
    network: Path,
    probe: Path,
    fine_tuned: Path,
    scratch: Path,
    work: Path,
) -> None:
    """See components/fine_tuning.py."""
    params = parse(FineTuning, fine_tuning, "params: fine_tuning")
    if params.launch.kind != "process":
        inputs = {"images": images, "views": views, "network": network, "probe": probe}
        _launch(params, fine_tuning, inputs, {"fine_tuned": fine_tuned, "scratch": scratch}, work)
        return
    table = read_table(images)
    drawn = policy(read_policy(views), load_backbone(network)[1].preprocessing)
    model, history = train(table, load_classifier(probe).to(best_device()), drawn, params, work=work)
    save_trained(model, history, fine_tuned, method=params.method, chosen=BEST)
    if params.baseline and params.method != "scratch":
        alone = params.model_copy(update={"method": "scratch"})
        baseline, history = train(table, load_classifier(probe), drawn, alone, work=work / "scratch")
        save_trained(baseline, history, scratch, method="scratch", chosen=BEST)
    else:
        reason = "the method is scratch itself" if params.baseline else "fine_tuning.baseline is off"
        if distributed.rank() == 0:
            write_skipped(scratch, reason)


def _launch(
    params: FineTuning,
    section: Mapping[str, Any],
    inputs: Mapping[str, Path],
    outputs: Mapping[str, Path],
    work: Path,
) -> None:
    """Let several processes call `run`, each as one of them."""
    job = Job(
        step="fine_tuning",
        settings={"fine_tuning": {**section, "launch": {}}},
        inputs={name: str(path.absolute()) for name, path in inputs.items()},
        outputs={name: str(path.absolute()) for name, path in outputs.items()},
        work=str(work.absolute()),
    )
    launch(job, params.launch)


def save_trained(model: Classifier, history: History, folder: Path, *, method: str, chosen: str) -> None:
    """Store a classifier with the history of its training and how its epoch was chosen.

    Of several processes, which all hold the same, the first writes.
    """
    if distributed.rank() > 0:
        return
    save_classifier(model.cpu(), folder, method=method, extra={"chosen": chosen})
    write_json(folder / "history.json", history)
