"""The sections of params.yaml, their keys, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from graft.params.base import (
    Auto,
    Count,
    Fraction,
    NotNegative,
    NotNegativeInt,
    Positive,
    Precision,
    Section,
    Seed,
    Size,
)
from graft.params.cluster import Cluster


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
    input_size: Auto[Count] = None  # pixels; auto: what the weights expect, less for small images
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
    invert: Fraction = 0.0  # probability: dark becomes light
    noise: Fraction = 0.0  # standard deviation, of a range of 0 to 1
    brightness: NotNegative = 0.2
    contrast: NotNegative = 0.2
    saturation: NotNegative = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    perspective: Fraction = 0.0  # distortion
    elastic: NotNegative = 0.0  # displacement, pixels
    mixup: Auto[NotNegative] = None  # alpha of the Beta distribution; 0 is off
    cutmix: NotNegative = 0.0
    seed: Seed = 0


class FeatureExtraction(Section):
    """Which frozen features, and the classifier on them."""

    # logistic | svm | neighbours | dense | recurrent
    head: Literal["logistic", "svm", "neighbours", "dense", "recurrent"] = "logistic"
    layers: tuple[str, ...] = ()  # maps pooled and joined, by their names in the network; empty: its output
    batch_size: Count = 128
    path: Annotated[int, Field(ge=1, le=50)] = 9  # regularisation strengths tried (logistic, svm)
    strongest: Positive = 1e-4  # smallest C of the path (inverse regularisation)
    weakest: Positive = 1e2
    neighbours: Count = 20
    hidden: Count = 256  # units of the dense or recurrent layer
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    epochs: Count = 30  # of the dense or recurrent head
    learning_rate: Positive = 1e-3
    views: bool = True  # also learn from the augmented views
    precision: Precision = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"  # auto: OpenVINO on a CPU, if there is work enough
    # Where features are kept by content; by default below GRAFT_HOME, where that is set.
    store: Annotated[str, Field(pattern=r"^s3://[^/]+|^[^:]*$")] | None = None
    store_limit: Size = "10 GiB"  # what was not used for longest makes room
    seed: Seed = 0


class Network(Section):
    """A further network, and where its weights come from; see `backbone`."""

    name: str
    weights: str = "DEFAULT"
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = None


class Lora(Section):
    """Low-rank adapters in a transformer's linear layers (Hu et al. 2022)."""

    rank: Count = 8
    alpha: Positive = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Hybrid(Section):
    """A pretrained trunk without its last stages, and new blocks on top."""

    drop: Count = 1  # stages taken off the end
    blocks: Literal["residual", "inception"] = "residual"
    count: Count = 2
    width: Count = 256  # channels of each new block


class Combine(Section):
    """Features of several networks side by side."""

    networks: tuple[Network, ...] = ()  # beside the backbone
    joint: bool = False  # train the networks too, not only the classifier on them


class MultiTask(Section):
    """Source and target learned together: L_s + weight L_t."""

    weight: Auto[Positive] = None  # auto: learned from each task's uncertainty (Kendall et al. 2018)
    target_epochs: Annotated[int, Field(ge=0)] = 3  # then the target alone


class Distill(Section):
    """A small network learns from a better one."""

    student: Network = Network(name="digits_cnn", weights="random")
    teacher: str = "fine_tuned"  # the backbone, fine-tuned first; or models:/name@alias, or a folder
    temperature: Positive = 4.0
    weight: Fraction = 0.9  # of the teacher's answers; the rest is the labels'
    hints: NotNegative = 0.0  # weight of matching the teacher's features (Romero et al. 2015)


class SemiSupervised(Section):
    """FixMatch (Sohn et al. 2020): agree with oneself on unlabelled images."""

    threshold: Fraction = 0.95
    weight: Positive = 1.0
    ratio: Count = 3  # unlabelled images for each labelled one


class Launch(Section):
    """In how many processes the step trains, and who starts them."""

    # process: this one; torchrun: several on this machine; trainjob: Kubeflow Trainer's, from inside a pod
    kind: Literal["process", "torchrun", "trainjob"] = "process"
    processes: Auto[Count] = None  # on each machine; auto: one for each GPU, one without GPUs
    nodes: Count = 1  # machines

    @model_validator(mode="after")
    def _as_many_as_started(self) -> Launch:
        if self.kind == "process" and (self.processes or 1) > 1:
            raise ValueError(f"{self.processes} processes need `kind: torchrun` or `kind: trainjob`")
        if self.kind != "trainjob" and self.nodes > 1:
            raise ValueError(f"{self.nodes} nodes need `kind: trainjob`; {self.kind} stays on one machine")
        return self


Learn = Literal["freeze", "tune", "reinitialise"]


class FineTuning(Section):
    """How the pretrained network learns the task. What is `auto` follows from the number of images."""

    method: Literal[
        "head_only",
        "last_k",
        "all",
        "head_then_all",
        "gradual",
        "staged",
        "normalisation",
        "lora",
        "hybrid",
        "combine",
        "multi_task",
        "distill",
        "semi_supervised",
        "scratch",
        "none",
    ] = "head_then_all"
    init: Literal["probe", "champion"] = "probe"  # champion: goes on from it, in fewer steps
    head_epochs: Auto[NotNegativeInt] = None
    epochs: Auto[Count] = None
    batch_size: Auto[Count] = None
    learning_rate: Auto[Positive] = None
    weight_decay: NotNegative = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Count = 5  # epochs without a better validation score
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    # BatchNorm's: stored keeps what pretraining found, batch takes each batch's and their running average
    statistics: Auto[Literal["stored", "batch"]] = None
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights; 0 is off
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # rate of a stage over that of the next
    l2_sp: NotNegative = 0.0  # pull towards the pretrained weights (Li et al. 2018)
    interpolation: Fraction = 1.0  # share of the fine-tuned weights; the rest is the probe's (WiSE-FT)
    last: Count = 1  # stages that last_k trains
    # of `staged`: a stage by name, or from the end as "-1"; others: tune
    stages: dict[str, Learn] = Field(default_factory=dict)
    lora: Lora = Lora()
    hybrid: Hybrid = Hybrid()
    combine: Combine = Combine()
    multi_task: MultiTask = MultiTask()
    distill: Distill = Distill()
    semi_supervised: SemiSupervised = SemiSupervised()
    launch: Launch = Launch()
    precision: Precision = "auto"
    baseline: bool = True  # also train from scratch on the labelled target images
    baseline_epochs: Count = 30
    seed: Seed = 0

    @model_validator(mode="after")
    def _goes_on_with_the_same_network(self) -> FineTuning:
        if self.init == "champion" and self.method in ("hybrid", "combine", "scratch"):
            raise ValueError(f"method {self.method} builds a new network; `init: champion` goes on with one")
        return self


class Mcc(Section):
    """Minimum class confusion (Jin et al. 2020)."""

    temperature: Positive = 2.5


class Shot(Section):
    """Source-free adaptation (Liang et al. 2020)."""

    pseudo_labels: NotNegative = 0.3  # weight of their cross-entropy


class SelfTraining(Section):
    """Confident answers in a weak view become labels of a strong view."""

    threshold: Fraction = 0.9  # share of the mean confidence on labelled source images (AdaMatch)


class Subspace(Section):
    """Subspace alignment (Fernando et al. 2013)."""

    dimensions: Auto[Count] = None  # auto: what explains 99 % of either domain's variance


class Pace(Section):
    """Several backbones, aligned covariances, pseudo-labels, one linear classifier."""

    networks: tuple[Network, ...] = ()  # beside the fine-tuned trunk
    rounds: Count = 5  # of pseudo-labels, each with more of the target's images


class DomainAdaptation(Section):
    """Unlabelled target images make the classifier fit the target; then its labelled ones once more."""

    method: Literal[
        "dann",
        "cdan",
        "cdan_e",
        "dan",
        "deep_coral",
        "mcc",
        "shot",
        "self_training",
        "adabn",
        "subspace",
        "coral",
        "pace",
        "none",
    ] = "self_training"
    epochs: Count = 20
    batch_size: Count = 64  # of each domain
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    max_lambda: Auto[Positive] = None  # weight of the method's term at the end; auto: its own
    # Where dann, cdan, cdan_e and dan compare the domains: a stage or module, averaged over positions;
    # auto: the network's output.
    layer: Auto[str] = None
    # Source images get the target's style: share of the spectrum, to either side, whose amplitudes are the
    # target's; 0 is off.
    fourier: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    # What chooses the epoch. auto: labelled validation images of the target where there are enough,
    # otherwise all label-free validators together.
    choice: Literal[
        "auto",
        "last",
        "target_accuracy",
        "source_accuracy",
        "entropy",
        "information",
        "density",
        "deep_embedded",
        "clusters",
    ] = "auto"
    mcc: Mcc = Mcc()
    shot: Shot = Shot()
    self_training: SelfTraining = SelfTraining()
    subspace: Subspace = Subspace()
    pace: Pace = Pace()
    target_epochs: Annotated[int, Field(ge=0)] = 5
    precision: Precision = "auto"
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
    cluster: Cluster = Cluster()

    def sections(self) -> dict[str, dict[str, Any]]:
        """Every step's section as JSON stores it, without the keys that are not set (kfp has no null)."""
        values: dict[str, dict[str, Any]] = self.model_dump(
            mode="json", exclude_none=True, exclude={"cluster"}
        )
        return values
