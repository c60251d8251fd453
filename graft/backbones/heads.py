"""What stands on a trunk: features (N, F) in, one logit per class out."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.errors import GraftError

TEMPERATURE = 0.07  # of the votes, Wu et al. 2018, section 3.4
RAREST = 1e-6  # probability of a class without a vote


class DenseHead(nn.Module):
    """Linear, ReLU, dropout, linear: the classic classifier on flattened maps.

    Shape:
        (N, F) -> (N, C)
    """

    def __init__(self, in_features: int, out_features: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.hidden, self.dropout = hidden, dropout
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class RecurrentHead(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) that reads the positions of a feature map in turn.

    Args:
        in_features: P * F, what the trunk gives: the features of position 1, then of position 2 ...
        out_features: C.
        positions: P.
        hidden: Length of the state.
        dropout: Of the state, before the last layer.
        read: "mean" of the states over all positions, or the "last" state.

    Shape:
        (N, P * F) -> (N, C)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        positions: int,
        hidden: int,
        dropout: float,
        read: Literal["mean", "last"] = "mean",
    ) -> None:
        super().__init__()
        if in_features % positions:
            raise ValueError(f"{in_features} features are not {positions} positions of equal length")
        self.in_features, self.out_features = in_features, out_features
        self.positions, self.hidden, self.dropout, self.read = positions, hidden, dropout, read
        self.gru = nn.GRU(in_features // positions, hidden, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x.unflatten(1, (self.positions, -1)))
        state = states.mean(1) if self.read == "mean" else states[:, -1]
        logits: Tensor = self.output(self.drop(state))
        return logits


class NeighboursHead(nn.Module):
    """The k nearest of stored features vote, the nearer the more (Wu et al. 2018).

    The weight of a neighbour at cosine similarity s is exp(s / temperature). Nothing here learns.

    Args:
        in_features: F.
        out_features: C.
        bank: M, how many features are stored; `store` fills them in.
        neighbours: k; at most M count.
        temperature: Of the votes.

    Shape:
        (N, F) -> (N, C): logarithms of the votes' shares
    """

    features: Tensor
    labels: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bank: int,
        neighbours: int,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bank, self.neighbours, self.temperature = bank, neighbours, temperature
        self.register_buffer("features", torch.zeros(bank, in_features))
        self.register_buffer("labels", torch.zeros(bank, dtype=torch.int64))

    def store(self, features: Tensor, labels: Tensor) -> None:
        """Keep features (M, F), scaled to length 1, and their labels int64 (M,)."""
        self.features.copy_(functional.normalize(features, dim=1))
        self.labels.copy_(labels)

    def forward(self, x: Tensor) -> Tensor:
        similar = functional.normalize(x, dim=1) @ self.features.T
        nearest, where = similar.topk(min(self.neighbours, self.bank), dim=1)
        shares = (nearest / self.temperature).softmax(1)
        votes = functional.one_hot(self.labels[where], self.out_features).to(shares.dtype)
        return (shares.unsqueeze(2) * votes).sum(1).clamp_min(RAREST).log()


Head: TypeAlias = nn.Linear | DenseHead | RecurrentHead | NeighboursHead

_KINDS: dict[str, type[DenseHead | RecurrentHead | NeighboursHead]] = {
    "dense": DenseHead,
    "recurrent": RecurrentHead,
    "neighbours": NeighboursHead,
}
_SETTINGS = {
    "dense": ("hidden", "dropout"),
    "recurrent": ("positions", "hidden", "dropout", "read"),
    "neighbours": ("bank", "neighbours", "temperature"),
}


def describe(head: Head) -> dict[str, Any]:
    """A head as JSON stores it, without its weights and its number of classes."""
    if isinstance(head, nn.Linear):
        return {"in_features": head.in_features, "bias": head.bias is not None}
    kind = next(name for name, each in _KINDS.items() if type(head) is each)
    settings = {name: getattr(head, name) for name in _SETTINGS[kind]}
    return {"kind": kind, "in_features": head.in_features, **settings}


def make_head(description: dict[str, Any], classes: int) -> Head:
    """The inverse of `describe`, with random weights.

    Args:
        description: Without `kind` it is a linear layer, as every head once was.
        classes: C.

    Raises:
        GraftError: no such kind of head, or its settings are others.
    """
    values = dict(description)
    kind = values.pop("kind", "linear")
    try:
        if kind == "linear":
            return nn.Linear(values["in_features"], classes, bias=values["bias"])
        return _KINDS[kind](values.pop("in_features"), classes, **values)
    except (KeyError, TypeError) as error:
        raise GraftError(
            f"model.json describes a head that this graft does not have: {description}",
            f"heads are linear, {', '.join(_KINDS)}; update graft, or train the model again",
        ) from error
