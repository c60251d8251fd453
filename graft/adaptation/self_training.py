"""Self-training: sure answers teach (Lee 2013), across domains as AdaMatch does (Berthelot et al. 2022)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.adaptation.domains import Domains
from graft.backbones.classifier import Classifier
from graft.methods.semi_supervised import strong_view, weak_view
from graft.params import DomainAdaptation
from graft.training.loop import Loss
from graft.training.schedules import reversal
from graft.training.supervised import accuracy, draw


def self_training(model: Classifier, domains: Domains, params: DomainAdaptation) -> tuple[nn.Module, Loss]:
    """L = CE(y, p(x)) + lambda mean_u 1[max q_u >= tau c] CE(argmax q_u, p(strong(u))), q = p(weak(u)).

    u are target images. c is the mean confidence on the labelled images of the same step: what "sure"
    means follows from what the network is sure of where it knows the answer (AdaMatch's relative
    threshold), so tau needs no tuning for a network that is not calibrated. AdaMatch also aligns the
    shares of the classes to the source's, which is wrong where they differ, and is left out.
    """
    policy = domains.target.policy
    assert policy is not None
    # The same stream twice: the same images in the same order.
    weak, strong = (
        [replace(domains.target, policy=replace(policy, params=view(policy.params)))]
        for view in (weak_view, strong_view)
    )
    most = params.max_lambda or 1.0

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        known, labels = draw(domains.labelled, step)
        logits = model(torch.cat([known, draw(strong, step)[0]])).float()
        mine, others = logits[: len(known)], logits[len(known) :]
        # After the pass that learns: autocast would hand weights first cast here on without gradient.
        with torch.no_grad():
            confidence, pseudo = model(draw(weak, step)[0]).float().softmax(1).max(1)
            threshold = params.self_training.threshold * mine.softmax(1).max(1).values.mean()
        sure = (confidence >= threshold).float()
        label_loss = functional.cross_entropy(mine, labels)
        each = functional.cross_entropy(others, pseudo, reduction="none")
        strength = most * reversal(domains.progress(step))
        logs = {
            "train_accuracy": accuracy(mine, labels),
            "label_loss": label_loss.item(),
            "pseudo_label_loss": (sure * each).mean().item(),
            "confident": sure.mean().item(),
            "lambda": strength,
        }
        return label_loss + strength * (sure * each).mean(), logs

    return model, loss
