import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft.errors import GraftError
from graft.images.augmentation import policy
from graft.images.loading import load_images
from graft.images.preprocessing import Preprocessing
from graft.images.table import ImageTable
from graft.params import Augmentation
from graft.training import batches, distributed
from graft.training.batches import Batches
from graft.training.device import best_device
from graft.training.freezing import freeze

WORKER = Path(__file__).parent / "processes.py"
SIZES = Preprocessing(input_size=16, resize_size=18)


def launch(table: ImageTable, out: Path, *torchrun: str) -> list[dict[str, Any]]:
    """What each process found."""
    out.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *torchrun, str(WORKER), str(table.path), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert not done.returncode, done.stderr[-3000:]
    return [torch.load(path, weights_only=True) for path in sorted(out.glob("*.pt"))]


@pytest.fixture(scope="module")
def runs(table: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The same training by one process, and by two that torchrun starts."""
    folder = tmp_path_factory.mktemp("processes")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return {"one": launch(table, folder / "one"), "two": launch(table, folder / "two", *torchrun)}


def numbers(history: list[dict[str, Any]]) -> list[list[float]]:
    return [[v for k, v in sorted(row.items()) if k not in ("phase", "seconds")] for row in history]


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("run", ["frozen", "free", "branches"])
def test_two_processes_learn_what_one_learns(runs: dict[str, list[dict[str, Any]]], run: str) -> None:
    (one,), (two, _) = runs["one"], runs["two"]
    assert len(one[run]["history"]) == 3
    for alone, together in zip(numbers(one[run]["history"]), numbers(two[run]["history"]), strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    for name, tensor in one[run]["weights"].items():
        torch.testing.assert_close(two[run]["weights"][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("run", ["frozen", "free", "statistics", "branches", "early", "diverged", "resumed"])
def test_all_processes_hold_the_same_model_and_history(
    runs: dict[str, list[dict[str, Any]]], run: str
) -> None:
    first, second = (process[run] for process in runs["two"])
    assert same(first["weights"], second["weights"])
    assert numbers(first["history"]) == numbers(second["history"])


def test_a_parameter_without_gradient_anywhere_is_left_alone(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Not even decayed, as in one process."""
    (one,), (two, _) = runs["one"], runs["two"]
    torch.manual_seed(0)
    untouched = [nn.Linear(4, 3) for _ in range(3)][2]
    for found in (one, two):
        assert torch.equal(found["branches"]["weights"]["idle.weight"], untouched.weight)


def test_processes_stop_early_together(runs: dict[str, list[dict[str, Any]]]) -> None:
    histories = [process["early"]["history"] for process in runs["two"]]
    assert [[row["val_accuracy"] for row in history] for history in histories] == [[0.5, 0.5]] * 2


def test_one_bad_loss_ends_all_processes(runs: dict[str, list[dict[str, Any]]]) -> None:
    for process in runs["two"]:
        assert process["diverged"]["history"][-1]["diverged"] == "loss nan at step 6"
        assert all(torch.isfinite(tensor).all() for tensor in process["diverged"]["weights"].values())


def test_killed_processes_go_on_as_if_nothing_had_happened(
    runs: dict[str, list[dict[str, Any]]],
) -> None:
    for process in runs["two"]:
        assert same(process["statistics"]["weights"], process["resumed"]["weights"])
        assert numbers(process["statistics"]["history"]) == numbers(process["resumed"]["history"])


@pytest.mark.parametrize("augmentation", [{}, {"mixup": 0.4}, {"cutmix": 1.0, "noise": 0.1}])
@pytest.mark.parametrize(("batch_size", "processes"), [(8, 2), (9, 3), (10, 4), (1, 2)])
def test_slices_of_all_processes_are_the_batch_of_one(
    table: ImageTable,
    monkeypatch: pytest.MonkeyPatch,
    augmentation: dict[str, float],
    batch_size: int,
    processes: int,
) -> None:
    def drawn(size: int, rank: int, world: int) -> tuple[Tensor, Tensor, int]:
        monkeypatch.setattr(batches, "rank", lambda: rank)
        monkeypatch.setattr(batches, "world", lambda: world)
        params = Augmentation(**augmentation)
        images = load_images(table, table.rows.index[:12], SIZES)
        chosen = images[(images.labels >= 0).numpy()]
        stream = Batches(chosen, 3, SIZES, policy(params, SIZES), size, 0, torch.device("cpu"))
        return *stream(5), stream.share

    slices = [drawn(batch_size, rank, processes) for rank in range(processes)]
    assert {share for _, _, share in slices} == {len(slices[0][0])}
    rounded = -(-batch_size // processes) * processes
    inputs, targets, share = drawn(rounded, 0, 1)
    assert share == rounded
    torch.testing.assert_close(torch.cat([part for part, _, _ in slices]), inputs, rtol=0, atol=1e-6)
    assert torch.equal(torch.cat([part for _, part, _ in slices]), targets)


def test_alone_nothing_is_exchanged() -> None:
    layer = nn.BatchNorm1d(3)
    layer(torch.randn(4, 3)).square().sum().backward()
    before = [layer.weight.grad.clone(), layer.running_mean.clone()]
    with distributed.join():
        distributed.wait()
        distributed.share_state(layer)
        distributed.average_gradients(layer.parameters())
        distributed.average_buffers(layer)
        assert (distributed.world(), distributed.rank()) == (1, 0)
        assert distributed.average({"loss": 0.1}) == {"loss": 0.1}
    assert torch.equal(before[0], layer.weight.grad)
    assert torch.equal(before[1], layer.running_mean)


def test_shared_statistics_keep_objects_names_and_freezing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs BatchNorm becomes torch's SyncBatchNorm for the time of training, and is itself again."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(nn.Parameter, "is_cuda", True)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    freeze(model[1])
    names, parameters = list(model.state_dict()), list(map(id, model.parameters()))
    with pytest.raises(KeyboardInterrupt), distributed.common_statistics(model):  # noqa: PT012
        assert [type(part) for part in (model[1], model[3])] == [nn.SyncBatchNorm] * 2
        assert (list(model.state_dict()), list(map(id, model.parameters()))) == (names, parameters)
        model.train()
        model[:2](torch.randn(2, 3, 4, 4))  # the frozen one normalises by what it knows, on any device
        raise KeyboardInterrupt
    assert [type(part) for part in (model[1], model[3])] == [nn.BatchNorm2d] * 2
    assert int(model[1].num_batches_tracked) == 0


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert best_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert best_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(GraftError, match=r"finds 2 GPUs.*\n  fix: give torchrun --nproc-per-node 2"):
        best_device()
