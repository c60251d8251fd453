"""What is fetched ahead is what was asked for."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.images import loading
from graft.images.ahead import Ahead, gathered, on_their_way
from graft.images.loading import Images, near

CPU = torch.device("cpu")
KEYS = st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5)), max_size=12)


@given(KEYS)
def test_whatever_was_expected_the_right_one_comes(asked: list[tuple[int, int | None]]) -> None:
    ahead = Ahead(lambda key: torch.full((2,), key))
    assert [ahead(key, following).tolist() for key, following in asked] == [[key, key] for key, _ in asked]


def test_the_next_one_is_fetched_by_another_thread_and_once() -> None:
    where: dict[int, list[int]] = {}

    def fetch(key: int) -> torch.Tensor:
        where.setdefault(key, []).append(threading.get_ident())
        return torch.tensor(key)

    ahead = Ahead(fetch)
    for key in range(3):
        ahead(key, key + 1 if key < 2 else None)
    mine = threading.get_ident()
    assert where[0] == [mine]
    assert len(where[1]) == len(where[2]) == 1
    assert mine not in where[1] + where[2]


def test_what_goes_wrong_ahead_is_raised_when_it_is_asked_for() -> None:
    def fetch(key: int) -> torch.Tensor:
        if key:
            raise OSError("the disk is gone")
        return torch.tensor(key)

    ahead = Ahead(fetch)
    ahead(0, 1)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead(1, None)


def test_images_are_gathered_from_a_mapped_file(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=(9, 3, 4, 4))
    mapped[:] = np.arange(9).reshape(-1, 1, 1, 1)
    found = gathered(torch.from_numpy(mapped), torch.tensor([7, 0, 7]), CPU)
    assert found[:, 0, 0, 0].tolist() == [7, 0, 7]


def test_batches_come_in_order_and_whole() -> None:
    pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    batches = list(on_their_way(pixels, 4, CPU))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), pixels)


@pytest.mark.parametrize(("free", "place"), [(300, "meta"), (200, "cpu")])
def test_pixels_lie_on_the_device_where_a_third_of_it_holds_them(
    free: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_free_memory", lambda _: free)
    images = Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), np.zeros(2))  # type: ignore[arg-type]
    assert near(images, torch.device("meta")).pixels.device.type == place


def test_on_a_cpu_pixels_stay_as_they_are() -> None:
    images = Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), np.zeros(2))  # type: ignore[arg-type]
    assert near(images, CPU) is images
