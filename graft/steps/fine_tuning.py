"""Step: the fine-tuned classifier, and the baseline trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.backbones.descriptions import write_skipped
from graft.files import write_json
from graft.params import FineTuning, parse
from graft.progress import say
from graft.steps.warm_start import begin

if TYPE_CHECKING:
    from graft.backbones.classifier import Classifier
    from graft.training.loop import History

BEST = "the epoch of each phase with the best validation accuracy"


def run(
    *,
    fine_tuning: Mapping[str, Any],
    registry: Mapping[str, Any],
    champion: str | None,
    images: Path,
    views: Path,
    network: Path,
    probe: Path,
    fine_tuned: Path,
    scratch: Path,
    work: Path,
) -> None:
    """See components/fine_tuning.py; `graft.steps.warm_start.settings_of` gives the settings."""
    params = parse(FineTuning, fine_tuning, "params: fine_tuning")
    inputs = {"images": images, "views": views, "network": network, "probe": probe}
    outputs = {"fine_tuned": fine_tuned, "scratch": scratch}
    if params.method == "none":
        say("fine_tuning: skipped, since fine_tuning.method is none")
        for folder in outputs.values():
            write_skipped(folder, "fine_tuning.method is none")
        return
    start = begin(champion, params, registry, probe, work)
    if params.launch.kind == "process":
        _train(params, inputs, outputs, start, None if start == probe else champion, work)
    else:
        alone = {"fine_tuning": {**fine_tuning, "launch": {}}, "registry": registry, "champion": champion}
        _launch(params, alone, inputs, outputs, work)


def _train(
    params: FineTuning,
    inputs: Mapping[str, Path],
    outputs: Mapping[str, Path],
    start: Path,
    champion: str | None,
    work: Path,
) -> None:
    """Train from the classifier in `start`, which is the probe unless a champion is named."""
    from graft.backbones.classifier import load_classifier
    from graft.backbones.trunk import load_backbone
    from graft.images.augmentation import policy, read_policy
    from graft.images.table import read_table
    from graft.methods import train
    from graft.training import distributed
    from graft.training.device import best_device

    if champion is None:
        params = params.model_copy(update={"init": "probe"})
    table = read_table(inputs["images"])
    drawn = policy(read_policy(inputs["views"]), load_backbone(inputs["network"])[1].preprocessing)
    model, history = train(table, load_classifier(start).to(best_device()), drawn, params, work=work)
    save_trained(model, history, outputs["fine_tuned"], method=params.method, chosen=BEST, began=champion)
    if params.baseline and params.method != "scratch":
        alone = params.model_copy(update={"method": "scratch"})
        baseline, history = train(
            table, load_classifier(inputs["probe"]), drawn, alone, work=work / "scratch"
        )
        save_trained(baseline, history, outputs["scratch"], method="scratch", chosen=BEST)
    elif distributed.rank() == 0:
        reason = "the method is scratch itself" if params.baseline else "fine_tuning.baseline is off"
        write_skipped(outputs["scratch"], reason)


def _launch(
    params: FineTuning,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    outputs: Mapping[str, Path],
    work: Path,
) -> None:
    """Let several processes call `run`, each as one of them."""
    from graft.launching import launch
    from graft.launching.job import Job

    job = Job(
        step="fine_tuning",
        settings=settings,
        inputs={name: str(path.absolute()) for name, path in inputs.items()},
        outputs={name: str(path.absolute()) for name, path in outputs.items()},
        work=str(work.absolute()),
    )
    launch(job, params.launch)


def save_trained(
    model: Classifier, history: History, folder: Path, *, method: str, chosen: str, began: str | None = None
) -> None:
    """Store a classifier with the history of its training and how its epoch was chosen.

    Of several processes, which all hold the same, the first writes.

    Args:
        model: The classifier.
        history: One row an epoch.
        folder: Where.
        method: Its name.
        chosen: How the epoch was chosen.
        began: The registered model that training went on from, if it did.
    """
    from graft.backbones.classifier import save_classifier
    from graft.training import distributed

    if distributed.rank() > 0:
        return
    extra = {"chosen": chosen, **({"began": began} if began else {})}
    save_classifier(model.cpu(), folder, method=method, extra=extra)
    write_json(folder / "history.json", history)
