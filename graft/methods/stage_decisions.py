"""What each stage of a trunk does in a phase: stay, learn, or start anew; and how fast it learns."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.structures import rebuild
from graft.errors import GraftError
from graft.params.sections import Learn
from graft.training.freezing import freeze, keep_statistics, unfreeze

# The user's three, and: nothing but the scales and shifts of normalisation layers learns.
Decision = Literal["freeze", "tune", "reinitialise", "normalisation"]
Decisions = dict[str, Decision]

# What starts from random weights learns ten times as fast as layers that already know something.
NEW_RATE = 10.0

# BatchNorm, InstanceNorm and what is derived from them share a base class that torch keeps to itself.
_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def everywhere(model: Classifier, decision: Decision) -> Decisions:
    """The same for every stage."""
    return {name: decision for name, _ in model.trunk.stages}


def last_stages(model: Classifier, count: int) -> Decisions:
    """The last `count` stages are tuned, those before them frozen.

    Raises:
        GraftError: there are fewer stages.
    """
    names = [name for name, _ in model.trunk.stages]
    if count > len(names):
        raise GraftError(
            f"fine_tuning.last = {count}, but {model.config.name} has only these stages: {', '.join(names)}",
            f"give a number from 1 to {len(names)}, or the method all",
        )
    first = len(names) - count
    return {name: "freeze" if position < first else "tune" for position, name in enumerate(names)}


def listed(model: Classifier, wanted: Mapping[str, Learn]) -> Decisions:
    """As the user lists them; a stage that is not listed is tuned.

    Args:
        model: Its trunk has the stages.
        wanted: A stage's name, or its place from the end such as "-1", and what it does.

    Raises:
        GraftError: there is no such stage, or one is listed twice with different decisions.
    """
    names = [name for name, _ in model.trunk.stages]
    found: Decisions = {}
    for key, decision in wanted.items():
        name = _find(key, names, model.config.name)
        if found.setdefault(name, decision) != decision:
            raise GraftError(
                f"fine_tuning.stages: {key} is the stage {name}, which is to {found[name]} and to {decision}",
                "list each stage once",
            )
    return {name: found.get(name, "tune") for name in names}


def arrange(model: Classifier, decisions: Mapping[str, Decision], *, stored: bool = False) -> None:
    """Make exactly those parts of the trunk learn; what an earlier phase froze is freed first.

    Args:
        model: Its head always learns.
        decisions: What each stage does.
        stored: Tuned stages keep the statistics of their BatchNorm layers; those that start anew find
            their own.

    Raises:
        GraftError: nothing but normalisation layers shall learn, and there are none.
    """
    unfreeze(model.trunk)
    if not {"tune", "reinitialise"} & set(decisions.values()):
        freeze(model.trunk)  # as a whole: also what the network does beside its stages, such as dropout
    for name, stage in model.trunk.stages:
        if decisions[name] in ("freeze", "normalisation"):
            freeze(stage)
        elif stored and decisions[name] == "tune":
            keep_statistics(stage)
    scales = [
        parameter
        for name, stage in model.trunk.stages
        if decisions[name] == "normalisation"
        for part in stage.modules()
        if isinstance(part, _NORMALISATION)
        for parameter in part.parameters(recurse=False)
    ]
    for parameter in scales:
        parameter.requires_grad_(True)  # the layer stays in eval mode, so its statistics stay
    if not scales and "normalisation" in decisions.values():
        raise GraftError(
            f"fine_tuning.method: normalisation, but {model.config.name} has no normalisation layer to train",
            "choose another method, such as head_then_all",
        )


@torch.no_grad()
def reinitialise(model: Classifier, decisions: Mapping[str, Decision], seed: int) -> None:
    """Give the stages that start anew the weights and statistics of a fresh network of the same make.

    They are copied, as every architecture knows best how its own layers begin.
    """
    if "reinitialise" not in decisions.values():
        return
    fresh = rebuild(model.config, seed)
    for (name, stage), (_, other) in zip(model.trunk.stages, fresh.stages, strict=True):
        if decisions[name] == "reinitialise":
            stage.load_state_dict(other.state_dict())


def new_parameters(model: Classifier, decisions: Mapping[str, Decision]) -> set[str]:
    """Names, within the trunk, of the parameters of stages that start anew."""
    new = {
        id(parameter)
        for name, stage in model.trunk.stages
        if decisions[name] == "reinitialise"
        for parameter in stage.parameters()
    }
    return {name for name, parameter in model.trunk.named_parameters() if id(parameter) in new}


def stage_rates(
    model: Classifier, decisions: Mapping[str, Decision], *, head: float, layer_decay: float
) -> Callable[[str], float]:
    """Discriminative rates (Howard & Ruder 2018): the deeper a stage lies, the less it has to change.

    Args:
        model: Classifier with stages 1 (stem) to L (next to the head).
        decisions: What each stage does; one that starts anew learns with `NEW_RATE`.
        head: The head's factor.
        layer_decay: d; stage l has the factor d^(L - l).

    Returns:
        The factor on the learning rate of a parameter, by its name in the classifier.
    """
    factors: dict[int, float] = {}
    for place, (name, stage) in enumerate(reversed(model.trunk.stages)):
        factor = NEW_RATE if decisions[name] == "reinitialise" else layer_decay**place
        for parameter in stage.parameters():
            factors.setdefault(id(parameter), factor)
    by_name = {name: factors.get(id(p), head) for name, p in model.named_parameters()}
    return by_name.__getitem__


def _find(key: str, names: list[str], backbone: str) -> str:
    if key in names:
        return key
    place = int(key) if key.removeprefix("-").isdecimal() else 0
    if -len(names) <= place < 0:
        return names[place]
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.3)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise GraftError(
        f"fine_tuning.stages: {backbone} has no stage {key!r}",
        f"{hint}its stages, from the stem on: {', '.join(names)}; or -1 (the last) to -{len(names)}",
    )
