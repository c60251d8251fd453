"""What a student minimises: its teacher's answers, the labels, and the teacher's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.classifier import Classifier
from graft.images.preprocessing import Preprocessing
from graft.params import Distill
from graft.training.batches import Batches
from graft.training.loop import Loss
from graft.training.supervised import accuracy


class Pupil(nn.Module):
    """The student, and what guesses the teacher's features from its own (Romero et al. 2015).

    Args:
        student: The small classifier.
        hints: Length of the teacher's feature vectors; 0 leaves the regressor out.
    """

    def __init__(self, student: Classifier, hints: int) -> None:
        super().__init__()
        self.student = student
        self.regressor = nn.Linear(student.config.num_features, hints) if hints else None


def distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, weight: float
) -> Tensor:
    """(1 - w) CE(y, p_s) + w T^2 KL(p_t^T || p_s^T), with p^T the softmax of the logits over T.

    T^2 keeps the second term's gradient of one size, since that of the KL falls with T^2.

    Args:
        student, teacher: Logits (N, C).
        labels: Probabilities (N, C); rows of zeros where there is no label. The first term is the mean
            over the labelled images, the second over all.
        temperature: T > 0.
        weight: w in [0, 1].
    """
    guess, answer = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    divergence = functional.kl_div(guess, answer, log_target=True, reduction="batchmean")
    known = (labels.sum(1) > 0).sum().clamp(min=1)
    right = -(labels * student.log_softmax(1)).sum() / known
    return (1 - weight) * right + weight * temperature**2 * divergence


def teaching_loss(
    pupil: Pupil, teacher: Classifier, labelled: Sequence[Batches], unlabelled: Sequence[Batches], by: Distill
) -> Loss:
    """`distillation`, and with hints h / 2 mean_f (u_t - r(u_s))^2 of the pooled features.

    Both see the very same augmented view, which is what makes long training pay (Beyer et al. 2022). The
    squared distance is per feature, unlike Romero's sum, so that h means the same for any teacher.

    Args:
        pupil: The student; its teacher stays as it is.
        teacher: In eval mode, on the same device.
        labelled, unlabelled: Streams whose preprocessing may differ in size from either network's; the
            labels of the second are not looked at.
        by: Temperature, weight and hints.
    """
    student = pupil.student
    drawn = [*labelled, *unlabelled][0].preprocessing

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        views, labels = _draw(labelled, unlabelled, step)
        with torch.no_grad():
            hint = teacher.trunk(seen_by(views, drawn, teacher.config.preprocessing))
            answers = teacher.head(hint).float()
        features = student.trunk(seen_by(views, drawn, student.config.preprocessing))
        logits = student.head(features).float()
        value = distillation(logits, answers, labels, temperature=by.temperature, weight=by.weight)
        known = labels.sum(1) > 0
        logs = {"agreement": accuracy(logits, answers)}
        if labelled:
            logs["train_accuracy"] = accuracy(logits[known], labels[known])
        if pupil.regressor is not None:
            missed = functional.mse_loss(pupil.regressor(features).float(), hint.float())
            logs["hint_loss"] = missed.item()
            value = value + by.hints / 2 * missed
        return value, logs

    return loss


def seen_by(views: Tensor, drawn: Preprocessing, wanted: Preprocessing) -> Tensor:
    """Normalised views as another network expects them: its size, mean and deviation.

    Args:
        views: float (N, 3, S, S), normalised by `drawn`.
        drawn, wanted: Of the views, and of the result (N, 3, S', S').
    """
    if drawn.input_size != wanted.input_size:
        size = (wanted.input_size, wanted.input_size)
        views = functional.interpolate(views, size, mode="bilinear", antialias=True)
    if (drawn.mean, drawn.std) == (wanted.mean, wanted.std):
        return views
    mean, std, new_mean, new_std = (
        views.new_tensor(numbers).view(1, 3, 1, 1)
        for numbers in (drawn.mean, drawn.std, wanted.mean, wanted.std)
    )
    return (views * std + mean - new_mean) / new_std


def _draw(labelled: Sequence[Batches], unlabelled: Sequence[Batches], step: int) -> tuple[Tensor, Tensor]:
    """Step i of every stream as one batch; labels that unlabelled images may carry are zeroed."""
    known, unknown = ([batches(step) for batches in streams] for streams in (labelled, unlabelled))
    inputs = torch.cat([views for views, _ in [*known, *unknown]])
    labels = [*(each for _, each in known), *(torch.zeros_like(each) for _, each in unknown)]
    return inputs.contiguous(memory_format=torch.channels_last), torch.cat(labels)
