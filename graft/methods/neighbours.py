"""The nearest training images vote: no training at all."""

from __future__ import annotations

import numpy as np
import torch

from graft.backbones.heads import NeighboursHead
from graft.methods.probe import LabelledFeatures, Rows, score
from graft.params import FeatureExtraction


def neighbours(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, params: FeatureExtraction
) -> tuple[NeighboursHead, Rows]:
    """k-nearest neighbours by cosine similarity (Wu et al. 2018), k as the params say.

    Every row with a weight is in the bank, whatever its weight. See `fit_probe` for arguments and result.
    """
    counts = train.weights > 0
    features = torch.from_numpy(np.ascontiguousarray(train.features[counts]))
    head = NeighboursHead(
        features.shape[1], classes, bank=len(features), neighbours=min(params.neighbours, len(features))
    )
    head.store(features, torch.from_numpy(train.labels[counts]))
    row = {"neighbours": head.neighbours}
    if not len(val.labels):
        return head, [row]
    with torch.inference_mode():
        logits = torch.cat([head(part) for part in torch.from_numpy(val.features).split(256)])
    return head, [{**row, **score(logits.double().numpy(), val.labels)}]
