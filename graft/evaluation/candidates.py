"""The models under evaluation: the steps' candidates, and the champion that serves now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graft.backbones.classifier import Classifier, load_classifier
from graft.backbones.cost import latency, mebibytes, parameters
from graft.backbones.descriptions import read_model_json, skipped
from graft.errors import GraftError
from graft.files import read_json

BASELINE = "scratch"  # trained without transfer: what the other candidates have to beat
CHAMPION = "champion"  # the name of the champion among the predictions


@dataclass(frozen=True)
class Champion:
    """The registered model that serves now.

    Attributes:
        version: As the registry numbers it.
        model: The classifier, or None where it cannot be used.
        problem: Why it cannot be used, or None.
        weights_sha256: Of its weights; a candidate with the same is the champion itself.
        data_md5: Of the data it was registered from, or None where nothing says so.
    """

    version: str
    model: Classifier | None = None
    problem: str | None = None
    weights_sha256: str | None = None
    data_md5: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One step's classifier.

    Attributes:
        name: The step's short name, such as "adapted".
        folder: Where it is stored.
        model: The classifier.
        record: Its model.json.
        history: Its history.json, one row per epoch, or path.json, one per regularisation strength C;
            may be empty.
    """

    name: str
    folder: Path
    model: Classifier
    record: Mapping[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """What making it took, as its record or its history says; None where neither does."""
        if "seconds" in self.record:
            return float(self.record["seconds"])
        seconds = [row["seconds"] for row in self.history if "seconds" in row]
        return float(sum(seconds)) if seconds else None

    @property
    def chosen(self) -> str:
        """How the method picked this model among those it tried, as its record says."""
        if "chosen" in self.record:
            return str(self.record["chosen"])
        strengths = [row for row in self.history if "C" in row and "val_accuracy" in row]
        if not strengths:
            return "its record does not say"
        best = max(strengths, key=lambda row: (row["val_accuracy"], -row.get("val_loss", 0.0)))
        return f"C = {best['C']:.3g} of {len(strengths)} strengths, by validation accuracy"


@dataclass(frozen=True)
class Cost:
    """What a classifier costs to keep and to ask.

    Attributes:
        parameters: Number of weights.
        size_mib: Weights and buffers as stored, MiB.
        latency_ms: One image from its encoded bytes to probabilities, ms: the shortest of warm calls.
        seconds: What making it took, or None where nothing says so.
    """

    parameters: int
    size_mib: float
    latency_ms: float
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it."""
        return asdict(self)


def read_candidates(folders: Mapping[str, Path]) -> tuple[list[Candidate], dict[str, str]]:
    """Load every candidate that exists, and the reasons of those that a step skipped.

    Raises:
        GraftError: a folder is not a whole classifier, or every step skipped.
    """
    reasons = {name: skipped(Path(folder)) for name, folder in folders.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    candidates = [_read(name, Path(folders[name])) for name in folders if name not in left_out]
    if not candidates:
        said = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "none was given"
        raise GraftError(
            f"there is no candidate to evaluate ({said})",
            "run feature_extraction or fine_tuning, which give a candidate for any labelled data",
        )
    return candidates, left_out


def costs(
    models: Mapping[str, Classifier], image: bytes, seconds: Mapping[str, float | None]
) -> dict[str, Cost]:
    """Count every model's weights and time it on one encoded image.

    Args:
        models: By name.
        image: An encoded image file.
        seconds: What making each took, where it is known.
    """
    latencies = latency(list(models.values()), image)
    return {
        name: Cost(
            parameters=parameters(model),
            size_mib=mebibytes(model),
            latency_ms=taken,
            seconds=seconds.get(name),
        )
        for (name, model), taken in zip(models.items(), latencies, strict=True)
    }


def _read(name: str, folder: Path) -> Candidate:
    told = [folder / file for file in ("history.json", "path.json") if (folder / file).is_file()]
    return Candidate(
        name=name,
        folder=folder,
        model=load_classifier(folder),
        record=read_model_json(folder),
        history=read_json(told[0]) if told else [],
    )
