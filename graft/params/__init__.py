"""params.yaml as frozen, validated models: one per section, and each step takes its own section.

Unknown keys are refused with the nearest valid one; values out of range are refused with the range.
"""

from graft.params.base import Auto, Count, Fraction, NotNegative, Positive, Section, Seed
from graft.params.cluster import Cluster, StepResources
from graft.params.reading import parse, read_params
from graft.params.sections import (
    Augmentation,
    Backbone,
    Combine,
    Data,
    Distill,
    DomainAdaptation,
    Evaluation,
    FeatureExtraction,
    FineTuning,
    Hybrid,
    Launch,
    Lora,
    MultiTask,
    Network,
    Params,
    Pretrain,
    Registry,
    SemiSupervised,
)

__all__ = [
    "Augmentation",
    "Auto",
    "Backbone",
    "Cluster",
    "Combine",
    "Count",
    "Data",
    "Distill",
    "DomainAdaptation",
    "Evaluation",
    "FeatureExtraction",
    "FineTuning",
    "Fraction",
    "Hybrid",
    "Launch",
    "Lora",
    "MultiTask",
    "Network",
    "NotNegative",
    "Params",
    "Positive",
    "Pretrain",
    "Registry",
    "Section",
    "Seed",
    "SemiSupervised",
    "StepResources",
    "parse",
    "read_params",
]
