"""Every state of a classifier that adaptation passed through: its weights on disk, its scores in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graft.adaptation.evidence import Witnesses, hear
from graft.adaptation.validators import scores
from graft.backbones import tensors
from graft.backbones.classifier import Classifier
from graft.files import read_json, write_json
from graft.training import distributed

Watch = Callable[[Classifier], dict[str, float]]

COLLAPSED = 0.9  # share of target images given one class
GREW = 0.3  # by so much since the start, so that a target that is mostly one class is not refused
LOST = 3.0  # domain classifier's loss, nats; guessing costs log 2 = 0.69


class States:
    """States in order, number 0 the start.

    Args:
        folder: For the weights and scores of each; after a kill what is there is read again.
        witnesses: The images that each state is shown.
        watch: Further numbers about a state, for whoever looks on; they choose nothing.
    """

    def __init__(self, folder: Path, witnesses: Witnesses, watch: Watch | None = None) -> None:
        self.folder, self.witnesses, self.watch = folder, witnesses, watch

    def note(self, model: Classifier, number: int) -> dict[str, Any]:
        """Store the model as it is now, as this number; gives its scores.

        Besides the validators': `largest_class`, the share of target images that get the commonest
        answer.
        """
        evidence = hear(model, self.witnesses)
        heard = [evidence.learned, evidence.source, evidence.target, evidence.labelled]
        values = [array for each in heard if each for array in (each.features, each.logits)]
        if not all(np.isfinite(array).all() for array in values):
            return {"largest_class": float("nan")}
        answers = evidence.target.logits.argmax(1)
        row = scores(evidence) | {"largest_class": float(np.bincount(answers).max() / len(answers))}
        row |= self.watch(model) if self.watch else {}
        if distributed.rank() == 0:
            tensors.save(model.state_dict(), self.folder / f"{number}.safetensors")
            write_json(self.folder / f"{number}.json", {"scores": row, "answers": answers.tolist()})
        return row

    def inspect(self, model: Classifier) -> Callable[[dict[str, Any]], str | None]:
        """For `fit`: note the state of each epoch, and say when training has gone wrong."""

        def look(row: dict[str, Any]) -> str | None:
            row |= self.note(model, row["epoch"])
            return trouble(row, self.scores(0)["largest_class"])

        return look

    def scores(self, number: int) -> dict[str, float]:
        """What `note` gave."""
        found: dict[str, float] = read_json(self.folder / f"{number}.json")["scores"]
        return found

    def answers(self, number: int) -> np.ndarray:
        """The classes (N,) that a state gives the target images."""
        return np.array(read_json(self.folder / f"{number}.json")["answers"])

    def restore(self, model: Classifier, number: int) -> None:
        """Give the model the weights of this state."""
        path = self.folder / f"{number}.safetensors"
        tensors.fill(model, tensors.load(path), what=str(path))


def trouble(row: dict[str, Any], largest_at_start: float) -> str | None:
    """Why the state after an epoch is not good; None where it is.

    Args:
        row: Of the history, with `largest_class` and, of an adversary, `domain_loss`.
        largest_at_start: `largest_class` before adaptation.
    """
    largest = row["largest_class"]
    if np.isnan(largest):
        return "its answers are not finite"
    if largest > COLLAPSED and largest > largest_at_start + GREW:
        return f"collapse: {100 * largest:.0f} % of the target images get one class"
    if row.get("domain_accuracy") is not None and row["domain_loss"] > LOST:
        return f"the domain classifier diverges: its loss is {row['domain_loss']:.1f}"
    return None
