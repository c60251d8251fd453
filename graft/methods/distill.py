"""Knowledge distillation: a small network learns from a better one (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from graft.backbones import cost
from graft.backbones.classifier import Classifier, load_classifier
from graft.backbones.origins import mlflow_model
from graft.backbones.resolution import at_resolution
from graft.backbones.weights import prepare
from graft.errors import GraftError
from graft.images.augmentation import Policy
from graft.images.table import ImageTable
from graft.methods import train
from graft.methods.hyperrule import Plan, plan
from graft.methods.scratch import LEARNING_RATE
from graft.methods.stage_decisions import NEW_RATE
from graft.methods.teaching import Pupil, teaching_loss
from graft.params import Backbone, FineTuning
from graft.progress import say
from graft.training import distributed
from graft.training.batches import Batches
from graft.training.device import best_device
from graft.training.freezing import freeze, unfreeze
from graft.training.loop import History, Phase, fit
from graft.training.schedules import SCHEDULES
from graft.training.supervised import (
    domain_batches,
    labelled_index,
    steps_per_epoch,
    unlabelled_index,
    validation_index,
    validator,
)


def distill(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, *, work: Path
) -> tuple[Classifier, History]:
    """Teach the student that `params.distill` names, on all training images, labelled or not.

    Each step shows as many unlabelled images as labelled ones, in views that both networks see. A
    student from random weights trains as long as the baseline from scratch, if `epochs` is auto; one
    with weights first learns its new head alone. Patience is not used: a student gains from long
    training (Beyer et al. 2022).

    Args:
        table: Where the images are; unlabelled ones take part with the teacher's answers alone.
        model: The teacher to be, where it is `fine_tuned`: a pretrained trunk with the probe's head.
        policy: The augmentation of training images.
        params: `distill` has student, teacher and the loss.
        work: Folder for checkpoints; the teacher's are in its folder `teacher`.

    Returns:
        The student; and one row per epoch of the teacher's training (its phases called `teacher ...`)
        and of the student's, then one row each with what both cost and get right (phase `compared`).

    Raises:
        GraftError: the student or the teacher cannot be had, or the teacher knows other classes.
    """
    student = _student(table, params)
    teacher, history = _teacher(table, model, policy, params, work / "teacher")
    images = len(labelled_index(table, "train")) + len(unlabelled_index(table))
    chosen = plan(params, input_size=student.config.preprocessing.input_size, images=images)
    labelled, unlabelled = _streams(table, teacher, student, policy, chosen.batch_size, params.seed)
    hints = teacher.config.num_features if params.distill.hints else 0
    torch.manual_seed(params.seed)
    pupil = Pupil(student, hints).to(best_device())
    loss = teaching_loss(pupil, teacher, labelled, unlabelled, params.distill)
    validate = validator(student, table, validation_index(table))
    for phase in _phases(params, chosen, steps_per_epoch([*labelled, *unlabelled])):
        (freeze if phase.name == "student_head" else unfreeze)(student.trunk)
        history += fit(pupil, loss, phase, work=work, validate=validate)
    unfreeze(student.trunk)
    return student, history + _compare(table, teacher, student)


def _student(table: ImageTable, params: FineTuning) -> Classifier:
    """The network that `params` names, with a new linear head."""
    named = params.distill.student
    if named.weights == "pretrain":
        raise GraftError(
            "fine_tuning.distill.student.weights is pretrain, which only the backbone can be",
            "give random, published weights such as DEFAULT, or a file",
        )
    with _blamed("backbone.", "fine_tuning.distill.student."):
        trunk, config = prepare(Backbone(**named.model_dump(), seed=params.seed))
    config = at_resolution(trunk, config, input_size=None, short_side=table.short_side)
    torch.manual_seed(params.seed)
    head = nn.Linear(config.num_features, len(table.classes))
    return Classifier(trunk, head, config=config, classes=table.classes)


def _teacher(
    table: ImageTable, model: Classifier, policy: Policy, params: FineTuning, work: Path
) -> tuple[Classifier, History]:
    """The teacher in eval mode, and the history of its training where it is trained here."""
    if params.distill.teacher == "fine_tuned":
        # A teacher of smoothed labels says less about which classes are alike (Müller et al. 2019).
        alone = params.model_copy(update={"method": "head_then_all", "label_smoothing": 0.0})
        teacher, history = train(table, model, policy, alone, work=work)
        taught = [{**row, "phase": f"teacher {row.get('phase', '')}".strip()} for row in history]
        return teacher.to(best_device()).eval(), taught
    teacher = _saved(params.distill.teacher)
    if teacher.classes != table.classes:
        raise GraftError(
            f"fine_tuning.distill.teacher: {params.distill.teacher} knows the classes "
            f"{', '.join(teacher.classes)}, and the data has {', '.join(table.classes)}",
            "name a teacher of the data's classes, or fine_tuned",
        )
    return teacher.to(best_device()).eval(), []


def _saved(name: str) -> Classifier:
    if not name.startswith("models:/"):
        return load_classifier(Path(name).expanduser())
    with (
        _blamed("backbone.weights", "fine_tuning.distill.teacher"),
        tempfile.TemporaryDirectory(prefix="graft-teacher-") as folder,
    ):
        return load_classifier(mlflow_model(name, Path(folder)))


@contextmanager
def _blamed(wrong: str, right: str) -> Iterator[None]:
    """Errors inside name the key that the user wrote."""
    try:
        yield
    except GraftError as error:
        problem, fix = (text.replace(wrong, right) for text in (error.problem, error.fix))
        raise GraftError(problem, fix) from error


def _streams(
    table: ImageTable, teacher: Classifier, student: Classifier, policy: Policy, batch_size: int, seed: int
) -> tuple[list[Batches], list[Batches]]:
    """Labelled and unlabelled views, at the larger of the two sizes and with the student's field of view.

    Unlabelled images are not mixed: whether a batch is mixed depends on its labels.
    """
    own = student.config.preprocessing
    drawn = own.at(max(own.input_size, teacher.config.preprocessing.input_size))
    unmixed = policy.params.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    labelled = domain_batches(
        table,
        labelled_index(table, "train"),
        drawn,
        Policy(policy.params, drawn),
        batch_size=batch_size,
        seed=seed,
    )
    unlabelled = domain_batches(
        table,
        unlabelled_index(table),
        drawn,
        Policy(unmixed, drawn),
        batch_size=batch_size,
        seed=seed + len(labelled),
    )
    return labelled, unlabelled


def _phases(params: FineTuning, chosen: Plan, steps: int) -> list[Phase]:
    fresh = params.distill.student.weights == "random"
    epochs, rate = chosen.epochs, chosen.learning_rate
    if fresh:
        epochs = max(epochs, params.baseline_epochs) if params.epochs is None else epochs
        rate = LEARNING_RATE if params.learning_rate is None else rate

    def phase(name: str, epochs: int, rate: float, seed: int) -> Phase:
        return Phase(
            name=name,
            epochs=epochs,
            steps_per_epoch=steps,
            learning_rate=rate,
            weight_decay=params.weight_decay,
            schedule=SCHEDULES[params.schedule],
            seed=seed,
            ema=params.ema,
        )

    head = phase("student_head", 0 if fresh else chosen.head_epochs, rate * NEW_RATE, params.seed)
    return [each for each in (head, phase("student", epochs, rate, params.seed + 1)) if each.epochs]


def _compare(table: ImageTable, teacher: Classifier, student: Classifier) -> History:
    """What both cost and get right, told in a line each; times are of the CPU, one image at a time."""
    networks = {"teacher": teacher, "student": student}
    scores = {name: validator(each, table, validation_index(table)) for name, each in networks.items()}
    accuracies = {name: score()["val_accuracy"] for name, score in scores.items() if score}
    image = table.contents(table.select(split="train")[:1])[0]
    times = cost.latency([each.cpu() for each in networks.values()], image)
    student.to(best_device())
    rows: History = []
    for (name, each), taken in zip(networks.items(), times, strict=True):
        row = {"phase": "compared", "network": name, "parameters": cost.parameters(each)}
        row |= {"size_mib": cost.mebibytes(each), "latency_ms": taken}
        row |= {"val_accuracy": accuracies[name]} if accuracies else {}
        rows.append(row)
        if distributed.rank() == 0:
            right = f", validation accuracy {accuracies[name]:.3f}" if accuracies else ""
            say(
                f"{name} {each.config.name}: {row['parameters']:,} parameters, {row['size_mib']:.1f} MiB, "
                f"{taken:.1f} ms an image{right}"
            )
    return rows
