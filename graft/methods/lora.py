"""LoRA: low-rank changes of a transformer's linear layers (Hu et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from graft.backbones.classifier import Classifier
from graft.backbones.hooks import hooked
from graft.backbones.layers import black
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.interpolation import interpolate
from graft.methods.lesson import prepare
from graft.methods.stage_decisions import NEW_RATE, everywhere, stage_rates
from graft.params import FineTuning
from graft.params.sections import Lora
from graft.training.checkpoints import weights_of
from graft.training.freezing import freeze, unfreeze
from graft.training.loop import History, fit

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


def lora(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train adapters and the head, then merge the adapters into the weights, in place.

    A weight W becomes W + alpha / rank B A, with B zero at first; W itself, normalisation and the rest of
    the trunk stay bit for bit until the end. The result is an ordinary classifier of the same tensors.

    Args:
        table: Where the images are; validation chooses the epoch.
        model: A transformer with the head that a probe found.
        policy: The augmentation of training images.
        params: The section; `lora` has rank, alpha and dropout.
        work: Folder for checkpoints.

    Returns:
        The model and one row an epoch, of the phase `lora`.

    Raises:
        GraftError: the network is no transformer, or `l2_sp` is set.
    """
    if params.l2_sp:
        raise GraftError(
            f"fine_tuning.l2_sp = {params.l2_sp}, but lora leaves the pretrained weights where they are",
            "set l2_sp to 0, or lower lora.alpha",
        )
    weights = adaptable_weights(model, params.lora)
    lesson = prepare(table, model, policy, params)
    probe = weights_of(model)
    rates = _rates(model, weights, params.layer_decay)
    adapters = adapt(model, weights, params.lora, params.seed)
    phase = lesson.phase("lora", lesson.plan.epochs, rates=rates)
    history = fit(model, lesson.loss, phase, work=work, validate=lesson.validate)
    merge(model, adapters)
    interpolate(model, probe, params.interpolation)
    return model, history


def adaptable_weights(model: Classifier, by: Lora) -> list[str]:
    """Names, within the trunk, of the weight matrices that adapters can change.

    Of linear layers that are called as such: some attention layers only read the weights of theirs, and
    an adapter there would have no effect. The input projection of torch's own attention is a matrix
    without a layer; peft adapts it, too, but has no dropout for it, so with dropout it is left out.

    Raises:
        GraftError: the network has no attention over linear layers: it is no transformer.
    """
    called: list[str] = []
    handles = (
        part.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, part in model.trunk.named_modules()
        if isinstance(part, nn.Linear)
    )
    with hooked(handles):
        black(model.trunk, model.config)
    weights = [f"{name}.weight" for name in dict.fromkeys(called)]
    if not by.dropout:
        weights += [
            f"{name}.in_proj_weight"
            for name, part in model.trunk.named_modules()
            if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None
        ]
    if not weights or not any(_attends(part) for part in model.trunk.modules()):
        raise GraftError(
            f"fine_tuning.method: lora is for transformers; {model.config.name} is a convolutional network",
            "choose another method, such as head_then_all or normalisation; or name a transformer as "
            "backbone.name, such as vit_b_16",
        )
    return weights


def adapt(model: Classifier, weights: list[str], by: Lora, seed: int) -> LoraModel:
    """Put adapters beside these weights of the trunk, in place; they and the head alone can learn.

    Args:
        model: Its tensors keep their values; adapted layers are called `<layer>.base_layer`.
        weights: As `adaptable_weights` gives them.
        by: Rank, alpha and dropout.
        seed: Of the adapters' first weights.
    """
    from peft import LoraConfig  # some seconds: it brings the library transformers
    from peft.tuners.lora import LoraModel

    adapted = {model.trunk.get_submodule(name.rpartition(".")[0]) for name in weights}
    for part in model.trunk.modules():
        # What holds an adapted layer is not frozen as a whole: adapters have dropout of their own.
        if adapted.isdisjoint(list(part.modules())[1:]):
            freeze(part)
    matrices = [name for name in weights if name.endswith(".in_proj_weight")]
    config = LoraConfig(
        r=by.rank,
        lora_alpha=by.alpha,  # type: ignore[arg-type]  # declared int; only divided by the rank
        lora_dropout=by.dropout,
        target_modules=[name.removesuffix(".weight") for name in weights if name not in matrices],
        target_parameters=matrices,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoraModel(model.trunk, config, "default")


def merge(model: Classifier, adapters: LoraModel) -> None:
    """Add what the adapters learned to the weights, take them away, and let all layers learn again."""
    adapters.merge_and_unload()
    unfreeze(model.trunk)


def _rates(model: Classifier, weights: list[str], layer_decay: float) -> Callable[[str], float]:
    """Adapters start from nothing, so they learn faster, by the stage they are in; the head as planned."""
    usual = stage_rates(model, everywhere(model, "tune"), head=1.0, layer_decay=layer_decay)
    adapted = {f"trunk.{name.rpartition('.')[0]}": f"trunk.{name}" for name in weights}

    def rate(name: str) -> float:
        layer, adapter, _ = name.partition(".lora_")
        return NEW_RATE * usual(adapted[layer]) if adapter else usual(name)

    return rate


def _attends(part: nn.Module) -> bool:
    """Whether it is an attention layer over linear ones; libraries name theirs so."""
    name = type(part).__name__.lower()
    named = "attention" in name or "attn" in name
    return isinstance(part, nn.MultiheadAttention) or (
        named and any(isinstance(layer, nn.Linear) for layer in part.modules())
    )
