"""Heads with a hidden layer, trained on frozen features by the one loop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.features import evaluating
from graft.backbones.heads import DenseHead, RecurrentHead
from graft.methods.probe import LabelledFeatures, Rows, score
from graft.params import FeatureExtraction
from graft.training.batches import batch_indices
from graft.training.device import best_device
from graft.training.loop import Loss, Phase, Validate, fit

BATCH = 64  # rows a step
WEIGHT_DECAY = 0.01


def dense(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[DenseHead, Rows]:
    """Linear, ReLU, dropout, linear. See `fit_probe` for arguments and result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        width = train.features.shape[1]
        head = DenseHead(width, classes, hidden=params.hidden, dropout=params.dropout)
        mean, deviation = train.features.mean(0), train.features.std(0) + 1e-6
        rows = _train(head, train, val, mean, deviation, params)
    first = head.layers[0]
    assert isinstance(first, nn.Linear)
    _fold(first.weight, first.bias, mean, deviation)
    return head, rows


def recurrent(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[RecurrentHead, Rows]:
    """A GRU over the positions of a map (Cho et al. 2014). See `fit_probe` for arguments and result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        count = train.positions
        head = RecurrentHead(
            train.features.shape[1],
            classes,
            positions=count,
            hidden=params.hidden,
            dropout=params.dropout,
        )
        parts = train.features.reshape(len(train.labels), count, -1)
        mean, deviation = parts.mean((0, 1)), parts.std((0, 1)) + 1e-6
        rows = _train(head, train, val, np.tile(mean, count), np.tile(deviation, count), params)
    own = dict(head.gru.named_parameters())
    _fold(own["weight_ih_l0"], own["bias_ih_l0"], mean, deviation)
    return head, rows


def _train(
    head: DenseHead | RecurrentHead,
    train: LabelledFeatures,
    val: LabelledFeatures,
    mean: np.ndarray,
    deviation: np.ndarray,
    params: FeatureExtraction,
) -> Rows:
    """On standardised features; one row an epoch."""
    head.to(best_device())
    phase = Phase(
        name=params.head,
        epochs=params.epochs,
        steps_per_epoch=max(1, round(len(train.labels) / BATCH)),
        learning_rate=params.learning_rate,
        weight_decay=WEIGHT_DECAY,
        seed=params.seed,
    )
    loss = _loss(head, _tensor((train.features - mean) / deviation), train, params.seed)
    validate = _validate(head, _tensor((val.features - mean) / deviation), val) if len(val.labels) else None
    with tempfile.TemporaryDirectory(prefix="graft-head-") as work:
        rows = fit(head, loss, phase, work=Path(work), validate=validate)
    head.cpu().eval()
    return rows


def _loss(head: nn.Module, inputs: Tensor, train: LabelledFeatures, seed: int) -> Loss:
    """Weighted cross-entropy of one batch."""
    labels = torch.tensor(train.labels).to(inputs.device)
    weights = _tensor(train.weights / train.weights.mean())

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        order = torch.from_numpy(batch_indices(len(labels), BATCH, step, seed)).to(inputs.device)
        logits = head(inputs[order]).float()
        each = functional.cross_entropy(logits, labels[order], reduction="none")
        right = (logits.argmax(1) == labels[order]).float().mean()
        return (weights[order] * each).mean(), {"train_accuracy": float(right)}

    return loss


def _validate(head: nn.Module, inputs: Tensor, val: LabelledFeatures) -> Validate:
    def validate() -> dict[str, float]:
        with torch.inference_mode(), evaluating(head):
            logits = torch.cat([head(part).float() for part in inputs.split(256)])
        return score(logits.double().cpu().numpy(), val.labels)

    return validate


@torch.no_grad()
def _fold(weight: Tensor, bias: Tensor, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Make a layer of standardised features, weight (H, F), one of features as they are."""
    weight /= torch.from_numpy(deviation)
    bias -= weight @ torch.from_numpy(mean)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).to(best_device())
