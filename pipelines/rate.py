"""The learning-rate range test on what fine-tuning starts from."""

from __future__ import annotations

from pathlib import Path

from graft.backbones.classifier import load_classifier
from graft.images.augmentation import policy, read_policy
from graft.images.table import read_table
from graft.methods.lesson import prepare
from graft.params import Params
from graft.training.device import best_device
from graft.training.rate_finder import RateSearch, find_rate
from pipelines.chain import run_here, steps_to


def search_rate(params: Params, written: Path, data: Path, folder: Path, steps: int) -> RateSearch:
    """Run the chain up to the probe and search with all its layers learning.

    Args:
        params: All sections.
        written: The same as a file, for the steps.
        data: The data folder.
        folder: Gets the steps' artifacts.
        steps: Of the search.

    Raises:
        GraftError: a step found something wrong, or the loss never fell.
    """
    for step in steps_to("probe"):
        run_here(step, written, data, folder)
    model = load_classifier(folder / "probe").to(best_device())
    drawn = policy(read_policy(folder / "views"), model.config.preprocessing)
    section = params.fine_tuning
    lesson = prepare(read_table(folder / "images"), model, drawn, section)
    return find_rate(model, lesson.loss, steps=steps, weight_decay=section.weight_decay, seed=section.seed)
