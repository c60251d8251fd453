import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.backbones.classifier import Classifier, save_classifier
from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.methods.distill import distill
from graft.methods.teaching import Pupil, distillation, seen_by, teaching_loss
from graft.params import Augmentation, Distill, FineTuning, Network
from graft.training.supervised import domain_batches, labelled_index
from tests.methods.learning import classifier, killed_and_resumed, relabelled, same

STUDENT = Network(name="digits_cnn", weights="random")
PARAMS = FineTuning(
    method="distill",
    head_epochs=1,
    epochs=1,
    batch_size=16,
    learning_rate=1e-3,
    distill=Distill(student=STUDENT, hints=0.5),
)


def trained(table: ImageTable, work: Path, **changes: Any) -> tuple[Classifier, list[dict[str, Any]]]:
    model = classifier(table, seed=1)
    drawn = policy(Augmentation(), model.config.preprocessing)
    section = PARAMS.distill.model_copy(update=changes)
    return distill(table, model, drawn, PARAMS.model_copy(update={"distill": section}), work=work)


def logits(seed: int, rows: int = 4, classes: int = 3) -> Tensor:
    return torch.randn(
        rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).requires_grad_()


NOTHING = torch.zeros(4, 3, dtype=torch.float64)
LABELS = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(temperature: float) -> None:
    """KL and its gradient are zero, also where the logits differ by a constant."""
    student = logits(0)
    value = distillation(student, student.detach() + 3, NOTHING, temperature=temperature, weight=1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_the_loss_is_the_written_out_example() -> None:
    """T = 2, w = 0.75; teacher (2 log 3, 0) -> p^T = (3/4, 1/4), student (0, 0) -> (1/2, 1/2)."""
    teacher, student = torch.tensor([[3.0, 1.0]]).log() * 2, torch.zeros(1, 2)
    value = distillation(student, teacher, torch.tensor([[1.0, 0.0]]), temperature=2.0, weight=0.75)
    divergence = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))
    expected = 0.25 * torch.log(torch.tensor(2.0)) + 0.75 * 4 * divergence
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    student, teacher = logits(0), logits(1).detach()
    labels = torch.cat([LABELS[:2], NOTHING[2:]])

    def value(x: Tensor) -> Tensor:
        return distillation(x, teacher, labels, temperature=3.0, weight=0.7)

    assert torch.autograd.gradcheck(value, (student,))


def test_unlabelled_images_count_for_the_teachers_answers_alone() -> None:
    student, teacher = logits(0), logits(1)
    half = torch.cat([LABELS[:2], NOTHING[2:]])
    by_labels = distillation(student, teacher, half, temperature=2.0, weight=0.0)
    of_two = distillation(student[:2], teacher[:2], LABELS[:2], temperature=2.0, weight=0.0)
    assert by_labels.item() == pytest.approx(of_two.item())
    assert distillation(student, teacher, NOTHING, temperature=2.0, weight=0.0).item() == 0


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    """At T -> inf it becomes (z_s - z_t - their means) / C per image (Hinton et al. 2015, equation 4)."""
    student, teacher = logits(0), logits(1).detach()
    sizes = {}
    for temperature in (1.0, 10.0, 100.0, 1000.0):
        value = distillation(student, teacher, NOTHING, temperature=temperature, weight=1.0)
        (gradient,) = torch.autograd.grad(value, student)
        sizes[temperature] = gradient.norm().item()
    missed = student.detach() - teacher
    limit = (missed - missed.mean(1, keepdim=True)) / 3 / len(missed)
    assert torch.allclose(gradient, limit, rtol=1e-2, atol=1e-4)
    assert max(sizes.values()) < 5 * min(sizes.values())


numbers = st.lists(st.floats(-20, 20), min_size=6, max_size=6)


@settings(deadline=None)
@given(numbers, numbers, st.floats(0.2, 20), st.floats(0, 1))
def test_the_loss_is_never_negative(one: list[float], two: list[float], temperature: float, w: float) -> None:
    student, teacher = (torch.tensor(each, dtype=torch.float64).view(2, 3) for each in (one, two))
    labels = torch.eye(3, dtype=torch.float64)[:2]
    assert distillation(student, teacher, labels, temperature=temperature, weight=w).item() >= -1e-9


def test_the_same_view_is_prepared_for_each_network() -> None:
    """From one normalisation and size to another, as if it had been prepared for that at once."""
    one = Preprocessing(input_size=32, resize_size=32)
    other = Preprocessing(input_size=32, resize_size=40, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    views = one.normalise(pixels)
    assert seen_by(views, one, one) is views
    assert torch.allclose(seen_by(views, one, other), other.normalise(pixels), atol=1e-5)
    grey = one.normalise(torch.full((2, 3, 32, 32), 90, dtype=torch.uint8))
    larger = seen_by(grey, one, other.at(48))
    assert larger.shape == (2, 3, 48, 48)
    assert torch.allclose(larger, other.normalise(torch.full_like(larger, 90).byte()), atol=1e-5)


def test_hints_draw_the_features_together(table: ImageTable) -> None:
    """The hint term is h / 2 of the mean square that the regressor misses; h = 0 has no regressor."""
    student, teacher = classifier(table).eval(), classifier(table, seed=1).eval()
    index = labelled_index(table, "train")
    streams = domain_batches(table, index, student.config.preprocessing, None, batch_size=8, seed=0)
    pupil, plain = Pupil(student, teacher.config.num_features).eval(), Pupil(student, 0)
    by = Distill(hints=3.0)
    value, logs = teaching_loss(pupil, teacher, streams, [], by)(0)
    without, _ = teaching_loss(plain, teacher, streams, [], by)(0)
    views = torch.cat([each(0)[0] for each in streams])
    missed = (teacher.trunk(views) - pupil.regressor(student.trunk(views))).square().mean()
    assert value.item() == pytest.approx((without + 1.5 * missed).item(), rel=1e-5)
    assert logs["hint_loss"] == pytest.approx(missed.item(), rel=1e-5)
    assert plain.regressor is None
    value.backward()
    assert all(weight.grad is None for weight in teacher.parameters())


def test_teacher_then_student_and_what_both_cost(
    table: ImageTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, history = trained(table, tmp_path)
    assert [row["phase"] for row in history] == [
        "teacher head", "teacher all", "student", "compared", "compared",
    ]  # fmt: skip
    assert student.state_dict().keys() == classifier(table).state_dict().keys()  # no regressor
    assert {"agreement", "hint_loss", "val_accuracy"} <= history[2].keys()
    for row, name in zip(history[3:], ("teacher", "student"), strict=True):
        assert row["network"] == name
        assert row["parameters"] == sum(p.numel() for p in student.parameters())
        assert row["size_mib"] == pytest.approx(4 / 2**20 * row["parameters"], rel=0.02)
        assert row["latency_ms"] > 0
        assert 0 <= row["val_accuracy"] <= 1
    assert history[4]["val_accuracy"] == history[2]["val_accuracy"]
    lines = capsys.readouterr().err.splitlines()
    for name in ("teacher", "student"):
        assert sum(line.startswith(f"▸ {name} digits_cnn: ") for line in lines) == 1


def test_a_saved_teacher_is_not_changed_and_its_classes_must_be_the_datas(
    table: ImageTable, tmp_path: Path
) -> None:
    teacher = classifier(table, seed=2)
    save_classifier(teacher, tmp_path / "model", method="x")
    _, history = trained(table, tmp_path / "work", teacher=str(tmp_path / "model"))
    assert [row["phase"] for row in history] == ["student", "compared", "compared"]
    other = copy.deepcopy(teacher)
    other.classes = ("bar", "disc", "star")
    save_classifier(other, tmp_path / "other", method="x")
    with pytest.raises(GraftError, match=r"distill.teacher: .* bar, disc, star, .* bar, disc, frame\n"):
        trained(table, tmp_path / "again", teacher=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        (Network(name="digits_nn", weights="random"), r"distill.student.name.*digits_nn"),
        (Network(name="digits_cnn", weights="no.pth"), r"distill.student.weights.*no.pth"),
        (Network(name="digits_cnn", weights="pretrain"), r"distill.student.weights is pretrain"),
    ],
)
def test_a_student_that_cannot_be_had_is_named(
    table: ImageTable, tmp_path: Path, student: Network, problem: str
) -> None:
    with pytest.raises(GraftError, match=problem):
        trained(table, tmp_path, student=student)


def test_a_student_with_weights_learns_its_head_first(table: ImageTable, tmp_path: Path) -> None:
    save_classifier(classifier(table, seed=2), tmp_path / "teacher", method="x")
    torch.save(classifier(table).trunk.network.state_dict(), tmp_path / "student.pth")
    student = Network(name="digits_cnn", weights=str(tmp_path / "student.pth"))
    model, history = trained(table, tmp_path / "w", student=student, teacher=str(tmp_path / "teacher"))
    assert [row["phase"] for row in history][:2] == ["student_head", "student"]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("after", [1, 2])
def test_killed_after_any_epoch_it_ends_with_the_same_weights(
    table: ImageTable, tmp_path: Path, after: int
) -> None:
    whole, _ = trained(table, tmp_path / "whole")
    assert same(
        whole, killed_and_resumed(lambda work: trained(table, work), tmp_path / "killed", after=after)[0]
    )


def test_labels_that_must_stay_hidden_make_no_difference(table: ImageTable, tmp_path: Path) -> None:
    swapped = relabelled(table, table.rows["split"].isin(["test", "unlabeled"]), 0)
    assert same(trained(table, tmp_path / "a")[0], trained(swapped, tmp_path / "b")[0])
