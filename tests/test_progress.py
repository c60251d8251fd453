import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from graft.progress import progress_text, track, transfer, transfer_text


def test_texts() -> None:
    assert progress_text(120, 480, 2.0, "images") == "120/480 images, 60.0 images/s, 6 s left"
    assert transfer_text(1, 4, 2_000_000, 8_000_000, 2.0) == "1/4 files, 2.0/8.0 MB, 1.0 MB/s, 6 s left"


def test_without_a_known_size_the_files_tell_the_time_left() -> None:
    assert transfer_text(1, 4, 2_000_000, None, 2.0) == "1/4 files, 2.0 MB, 1.0 MB/s, 6 s left"
    assert transfer_text(0, 4, 2_000_000, None, 2.0) == "0/4 files, 2.0 MB, 1.0 MB/s"
    assert transfer_text(1, 1, 0, 0, 2.0).startswith("1/1 files, 0.0/0.0 MB, 0.0 MB/s")


def test_on_a_terminal_the_last_line_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track("abc", "reading", total=3, unit="letters")) == ["a", "b", "c"]
    tell = transfer("fetching", files=64, size=64_000_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: tell(1, 1_000_000), range(64)))
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert any("reading: 3/3 letters" in line for line in lines)
    assert "fetching: 64/64 files, 64.0/64.0 MB" in lines[-1]
