"""params.yaml as frozen, validated models: one per section, and each step takes its own section.

Unknown keys are refused with the nearest valid one; values out of range are refused with the range.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graft.errors import GraftError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """One section of params.yaml: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Data(Section):
    """What data_validation accepts, and how it splits what comes without splits."""

    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    min_images_per_class: Count = 2
    max_imbalance: Annotated[float, Field(ge=1)] = 20.0  # largest class over smallest class
    max_broken_fraction: Fraction = 0.02
    max_duplicate_fraction: Fraction = 0.2
    max_leak_fraction: Fraction = 0.2  # of the training images, too like a test image
    min_side: Count = 8  # pixels
    max_pixels: Count = 64_000_000


class Pretrain(Section):
    """Training the backbone on the source domain, when `weights: pretrain`."""

    epochs: Count = 8
    batch_size: Count = 64
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.05


class Backbone(Section):
    """Which network, and where its weights come from."""

    name: str = "digits_cnn"
    # pretrain | random | a weights name of the library (DEFAULT, IMAGENET1K_V2 ...) | a file |
    # s3://bucket/key | an MLflow model (models:/name@alias)
    weights: str = "pretrain"
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None
    seed: Seed = 0
    pretrain: Pretrain = Pretrain()


class Augmentation(Section):
    """The one policy: written out as views for feature extraction, drawn afresh in training."""

    views: Annotated[int, Field(ge=0, le=64)] = 2
    crop_scale: tuple[Positive, Positive] = (0.7, 1.0)  # share of the area
    crop_ratio: tuple[Positive, Positive] = (0.85, 1.18)
    rotate: Annotated[float, Field(ge=0, le=180)] = 10.0  # degrees
    scale: tuple[Positive, Positive] = (0.9, 1.1)
    flip_horizontal: Fraction = 0.0  # probability
    flip_vertical: Fraction = 0.0
    noise: Fraction = 0.0  # standard deviation, of a range of 0 to 1
    brightness: NotNegative = 0.2
    contrast: NotNegative = 0.2
    saturation: NotNegative = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    perspective: Fraction = 0.0  # distortion
    elastic: NotNegative = 0.0  # displacement, pixels
    mixup: NotNegative = 0.0  # alpha of the Beta distribution; 0 is off
    cutmix: NotNegative = 0.0
    seed: Seed = 0


class FeatureExtraction(Section):
    """The linear probe on frozen features."""

    batch_size: Count = 128
    path: Annotated[int, Field(ge=1, le=50)] = 9  # regularisation strengths tried
    strongest: Positive = 1e-4  # smallest C of the path (inverse regularisation)
    weakest: Positive = 1e2
    views: bool = True  # also learn from the augmented views


class FineTuning(Section):
    """Head first, then all layers (Kumar et al. 2022)."""

    method: Literal["head_then_all", "head_only", "all"] = "head_then_all"
    head_epochs: Annotated[int, Field(ge=0)] = 3
    epochs: Count = 12
    batch_size: Count = 64
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Count = 5  # epochs without a better validation score
    baseline: bool = True  # also train from scratch on the labelled target images
    baseline_epochs: Count = 30
    seed: Seed = 0


class DomainAdaptation(Section):
    """Adversarial adaptation (Ganin & Lempitsky 2015), then the labelled target images once more."""

    method: Literal["dann"] = "dann"
    epochs: Count = 20
    batch_size: Count = 64  # of each domain
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    max_lambda: Positive = 1.0
    target_epochs: Annotated[int, Field(ge=0)] = 5
    seed: Seed = 0


class Evaluation(Section):
    """The gate: what a challenger must show before it becomes champion."""

    min_accuracy: Fraction = 0.5  # of the first model ever
    min_gain: float = 0.0  # mean difference to the champion must be above
    tolerance: Fraction = 0.0  # lower bound of the difference must be above minus this
    max_class_drop: Fraction = 0.1
    max_calibration_error: Fraction = 0.25
    max_latency_ms: Positive = 1000.0  # one image
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    worst_errors: Annotated[int, Field(ge=0)] = 24  # pictures in the report
    explain: bool = False  # show where the winner looked in each of them
    batch_size: Count = 128
    seed: Seed = 0


class Registry(Section):
    """Where models are registered."""

    model_name: Annotated[str, Field(pattern=r"^[^/:]+$")] = "classifier"
    tracking_uri: str | None = None  # else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db
    experiment: str = "graft"
    # For the model card.
    intended_use: str = (
        "Naming the class of images like those it was trained and tested on. Not for images of another kind, "
        "and not for decisions about people without a person who checks."
    )


class Params(Section):
    """The whole of params.yaml."""

    data: Data = Data()
    backbone: Backbone = Backbone()
    augmentation: Augmentation = Augmentation()
    feature_extraction: FeatureExtraction = FeatureExtraction()
    fine_tuning: FineTuning = FineTuning()
    domain_adaptation: DomainAdaptation = DomainAdaptation()
    evaluation: Evaluation = Evaluation()
    registry: Registry = Registry()

    def sections(self) -> dict[str, dict[str, Any]]:
        """Every section as JSON stores it, without the keys that are not set (kfp has no null)."""
        values: dict[str, dict[str, Any]] = self.model_dump(mode="json", exclude_none=True)
        return values


S = TypeVar("S", bound=Section)


def parse(model: type[S], values: Mapping[str, Any] | None, where: str) -> S:
    """Validate a section.

    Args:
        model: The section's model, such as `FineTuning`.
        values: Its keys and values; absent keys take their defaults.
        where: Named in errors, such as "params.yaml: fine_tuning".

    Raises:
        GraftError: a key is unknown or a value is out of range, each named with its fix.
    """
    try:
        return model.model_validate(dict(values or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise _named(model, first["loc"], first, where) from None


def read_params(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Params:
    """Read params.yaml and overlays, later ones winning key by key, then `section.key=value`.

    Raises:
        GraftError: a file is missing or is not YAML, or what they say together is not valid.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = _overlay(merged, _read_yaml(Path(file)))
    for override in overrides:
        merged = _overlay(merged, _parse_override(override))
    return parse(Params, merged, " + ".join(str(file) for file in files) or "params")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise GraftError(
            f"the parameter file {path} does not exist", "give the path of a params.yaml or a recipe"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise GraftError(f"{path} is not valid YAML: {error}", "correct that line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise GraftError(f"{path} holds a {type(content).__name__}, not sections", "write `section:` lines")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise GraftError(
            f"--set {text!r} is not of the form section.key=value", "e.g. --set fine_tuning.epochs=5"
        )
    tree: Any = yaml.safe_load(value)
    for key in reversed(keys):
        tree = {key: tree}
    return tree


def _overlay(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _named(model: type[Section], location: tuple[Any, ...], first: Any, where: str) -> GraftError:
    path = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = list(_model_at(model, location[:-1]).model_fields)
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        fix = f"did you mean {nearest[0]!r}? " if nearest else ""
        return GraftError(f"{where}: unknown key {path!r}", f"{fix}valid keys: {', '.join(sorted(known))}")
    return GraftError(f"{where}: {path} = {first['input']!r}: {first['msg']}", f"correct {path}")


def _model_at(model: type[Section], location: tuple[Any, ...]) -> type[Section]:
    for key in location:
        annotation = model.model_fields[str(key)].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return model
