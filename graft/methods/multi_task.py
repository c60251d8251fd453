"""Multi-task learning: one trunk learns the source's task and the target's together (Caruana 1997)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods.hyperrule import Plan, plan
from graft.methods.lesson import Lesson, prepare
from graft.methods.regularising import l2_sp
from graft.methods.stage_decisions import NEW_RATE
from graft.params import FineTuning
from graft.training.batches import Batches
from graft.training.device import best_device
from graft.training.freezing import freeze, keep_statistics, unfreeze
from graft.training.loop import History, Loss, Phase, fit
from graft.training.supervised import accuracy, domain_batches, labelled_index, steps_per_epoch

# Adam moves a number by about its rate a step, so s needs a rate of its own to get anywhere.
UNCERTAINTY_RATE = 0.01
TARGET_RATE = 0.1  # the target alone has few images: a tenth of the rate keeps what both taught


class TwoTasks(nn.Module):
    """The classifier of the target, with the source's head on the same trunk.

    Args:
        classifier: Trunk and target head.
        source_classes: Positions in the classifier's classes of those that the source has labels of.
        weight: lambda; None learns how the tasks count, from `log_variances`, s of both tasks.
    """

    def __init__(self, classifier: Classifier, source_classes: np.ndarray, weight: float | None) -> None:
        super().__init__()
        self.classifier = classifier
        self.source_head = nn.Linear(classifier.config.num_features, len(source_classes))
        self.source_classes = source_classes
        self.weight = weight
        self.log_variances = nn.Parameter(torch.zeros(2), requires_grad=weight is None)

    def weights(self) -> Tensor:
        """How much the source's and the target's loss count, (2,)."""
        if self.weight is None:
            return torch.exp(-self.log_variances)
        return self.log_variances.new_tensor([1.0, self.weight])

    def joint(self, losses: Tensor) -> Tensor:
        """L_s + lambda L_t, or with learned s: sum_i exp(-s_i) L_i + s_i / 2.

        The latter is Kendall, Gal & Cipolla (2018) for classification, with s = log sigma^2: each task's
        logits are divided by its sigma^2, which is held up by log sigma. At rest, exp(-s_i) = 1 / (2 L_i).

        Args:
            losses: Of the source and of the target, (2,).
        """
        total = (self.weights() * losses).sum()
        return total + self.log_variances.sum() / 2 if self.weight is None else total


def two_task_loss(model: TwoTasks, source: Batches, target: Batches, label_smoothing: float) -> Loss:
    """The joint loss of a batch of each domain, both through the trunk in one pass.

    Args:
        model: The trunk with both heads.
        source: Labelled batches; labels are probabilities over all the table's classes.
        target: The same of the target.
        label_smoothing: Share of each label spread over the classes of its task.
    """

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        (inputs, labels), (target_inputs, target_labels) = source(step), target(step)
        # One pass over both domains: BatchNorm sees the mixture.
        features = model.classifier.trunk(torch.cat([inputs, target_inputs]))
        source_logits = model.source_head(features[: len(inputs)])
        logits = model.classifier.head(features[len(inputs) :])
        pairs = [(source_logits, labels[:, model.source_classes]), (logits, target_labels)]
        losses = torch.stack(
            [functional.cross_entropy(z.float(), y, label_smoothing=label_smoothing) for z, y in pairs]
        )
        weights = model.weights()
        logs = {
            "train_accuracy": accuracy(logits, target_labels),
            "source_accuracy": accuracy(*pairs[0]),
            "source_loss": losses[0].item(),
            "target_loss": losses[1].item(),
            "source_weight": weights[0].item(),
            "target_weight": weights[1].item(),
        }
        return model.joint(losses), logs

    return loss


def multi_task(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Train the trunk on both domains' tasks, each with a head; then the target's alone, in place.

    The heads learn first, on the frozen trunk (`head_epochs`), as the source's is new; then all layers
    (`epochs`); then all layers but the source's head on the target (`multi_task.target_epochs`).
    The source's head has the classes that the source has labelled images of, and is dropped at the end.

    Args:
        table: Where the images are; it needs two domains, with labelled training images in both.
        model: A pretrained trunk with the target's head, over all the table's classes.
        policy: The augmentation of training images.
        params: `multi_task` has the weight of the target's loss.
        work: Folder for checkpoints.

    Raises:
        GraftError: there is one domain, or one of the two has no labelled training image.
    """
    source_classes = _source_classes(table)
    model.to(best_device())
    # Before anything is trained: its errors come early, and l2_sp pulls to the pretrained weights.
    lesson = prepare(table, model, policy, params, index=labelled_index(table, "train", "target"))
    index = labelled_index(table, "train")
    chosen = plan(params, input_size=model.config.preprocessing.input_size, images=len(index))
    torch.manual_seed(params.seed)
    both = TwoTasks(model, source_classes, params.multi_task.weight).to(best_device())
    source, target = domain_batches(
        table, index, model.config.preprocessing, policy, batch_size=chosen.batch_size, seed=params.seed
    )
    loss = two_task_loss(both, source, target, params.label_smoothing)
    if params.l2_sp:
        loss = l2_sp(loss, model, alpha=params.l2_sp, beta=params.weight_decay)
    history: History = []
    for phase in _phases(lesson, chosen, steps_per_epoch([source, target])):
        (freeze if phase.name == "heads" else unfreeze)(model.trunk)
        if lesson.plan.stored:
            keep_statistics(model.trunk)
        history += fit(both, loss, phase, work=work, validate=lesson.validate)
    alone = lesson.phase("target", params.multi_task.target_epochs, rates=lambda _: TARGET_RATE, seed=2)
    history += fit(model, lesson.loss, alone, work=work, validate=lesson.validate)
    unfreeze(model.trunk)
    return model, history


def _source_classes(table: ImageTable) -> np.ndarray:
    """Positions of the classes that the source's labelled training images have, in order."""
    if len(table.domains) < 2:
        raise GraftError(
            "fine_tuning.method is multi_task, but the data has one domain, which is one task",
            "lay the images out in data/source and data/target, or set the method to head_then_all",
        )
    found = {domain: labelled_index(table, "train", domain) for domain in table.domains}
    for domain, index in found.items():
        if not len(index):
            raise GraftError(
                f"fine_tuning.method is multi_task, but the {domain} has no labelled training image",
                f"add images to data/{domain}/train/<class>, or set the method to head_then_all",
            )
    return np.unique(table.rows.loc[found["source"], "label"].to_numpy())


def _phases(lesson: Lesson, chosen: Plan, steps: int) -> list[Phase]:
    def rates(usual: float) -> Callable[[str], float]:
        own = UNCERTAINTY_RATE / chosen.learning_rate
        return lambda name: own if name == "log_variances" else usual

    phases = [
        lesson.phase("heads", chosen.head_epochs, rates=rates(NEW_RATE)),
        lesson.phase("both", chosen.epochs, rates=rates(1.0), seed=1),
    ]
    return [replace(phase, steps_per_epoch=steps) for phase in phases if phase.epochs]
