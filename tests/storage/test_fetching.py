"""Folders from S3, whole or not at all, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.files import folder_md5
from graft.storage.folders import address_digest, fetch_folder
from graft.storage.objects import fetch_object
from tests.storage.conftest import SMALL, Files, put, read, version_of, write
from tests.storage.proxy import HARM, Proxy

DIFFERENT = 4  # contents among the files of SMALL


def fetch(address: str, place: Path) -> str:
    return fetch_folder(address, place / "data", place / "store")


def kept(place: Path) -> list[Path]:
    return [file for file in (place / "store").rglob("*") if file.is_file() and not file.is_symlink()]


def test_a_folder_arrives_with_the_md5_that_dvc_gives_it(
    address: str, tmp_path: Path, small_md5: str
) -> None:
    assert fetch(address, tmp_path) == small_md5
    assert read(tmp_path / "data") == SMALL
    assert folder_md5(tmp_path / "data") == small_md5


def test_what_is_here_is_not_fetched_again(address: str, tmp_path: Path, proxy: Proxy) -> None:
    first = fetch(address, tmp_path)
    (tmp_path / "data" / "stranger").write_bytes(b"left behind")
    proxy.forget()
    assert fetch(address, tmp_path) == first
    assert proxy.fetched() == 0
    assert read(tmp_path / "data") == SMALL


names = st.text(st.characters(exclude_categories=["C"], exclude_characters="/."), min_size=1, max_size=6)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=st.dictionaries(paths, st.binary(max_size=40), min_size=1, max_size=5))
def test_any_folder_survives_the_way_there_and_back(
    files: Files, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = {name.rsplit("/", n)[0] for name in files for n in range(1, name.count("/") + 1)}
    files = {name: content for name, content in files.items() if name not in folders}
    place = tmp_path_factory.mktemp("round")
    expected = folder_md5(write(place / "before", files))
    md5, objects = version_of(files, f"{place.name}/")
    assert md5 == expected
    put(bucket, objects)
    assert fetch(f"dvc+s3://{bucket}/{place.name}?md5={md5}.dir", place) == expected
    assert read(place / "data") == files


@pytest.mark.parametrize("fault", HARM)
def test_one_fault_is_overcome(
    address: str, tmp_path: Path, proxy: Proxy, fault: str, small_md5: str
) -> None:
    """On every object, and on the list of them."""
    for name in (*SMALL, *version_of(SMALL)[1]):
        proxy.faults[f"/{name}"] = [fault]
    if fault in ("busy", "reset"):
        proxy.faults[address.split("/")[2]] = [fault]  # of the listing
    assert fetch(address, tmp_path) == small_md5
    assert read(tmp_path / "data") == SMALL


def test_a_broken_connection_is_taken_up_where_it_broke(bucket: str, tmp_path: Path, proxy: Proxy) -> None:
    content = os.urandom(5 << 20)
    put(bucket, {"big": content})
    proxy.faults["/big"] = ["drop", "drop"]
    fetch_object(f"s3://{bucket}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == content
    starts = [int(one.removeprefix("bytes=").rstrip("-")) for one in proxy.ranges]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(content)


@pytest.mark.parametrize("fault", ["flip", "truncate"])
def test_bytes_that_stay_wrong_are_an_error_and_no_file(
    address: str, tmp_path: Path, proxy: Proxy, fault: str, small_md5: str
) -> None:
    key = next(key for key, content in version_of(SMALL)[1].items() if content == SMALL["bee/2.png"])
    for end in ("bee/2.png", key):
        proxy.faults[end] = [fault] * 2
    with pytest.raises(GraftError, match=r"bee/2\.png.* was fetched twice, and ") as caught:
        fetch(address, tmp_path)
    assert "send it again from a whole copy" in caught.value.fix
    assert not (tmp_path / "data").exists()
    assert SMALL["bee/2.png"] not in [file.read_bytes() for file in kept(tmp_path)]
    assert not list((tmp_path / "store" / "arriving").iterdir())
    assert fetch(address, tmp_path) == small_md5  # the harm was on the way


def test_a_checksum_beside_the_object_is_checked_too(bucket: str, tmp_path: Path, proxy: Proxy) -> None:
    put(bucket, {"w.pth": b"weights"}, checksums=True)
    proxy.faults["/w.pth"] = ["flip"]
    fetch_object(f"s3://{bucket}/w.pth", tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == b"weights"
    proxy.faults["/w.pth"] = ["flip"] * 2
    with pytest.raises(GraftError, match="fetched twice, and its checksum is wrong"):
        fetch_object(f"s3://{bucket}/w.pth", tmp_path / "v.pth")
    assert not (tmp_path / "v.pth").exists()


def test_a_server_that_stays_busy_is_given_up(
    address: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy.faults["2.png"] = proxy.faults[".dir"] = ["busy"] * 100
    with pytest.raises(GraftError, match="SlowDown"):
        fetch(address, tmp_path)
    assert not (tmp_path / "data").exists()


def test_throttled_by_default_it_slows_down_and_arrives(
    bucket: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_RETRY_MODE")
    put(bucket, {"a": b"a", "b": b"b"})
    proxy.faults["/a"] = ["busy"]
    fetch(f"s3://{bucket}", tmp_path)
    assert read(tmp_path / "data") == {"a": b"a", "b": b"b"}


KILLED = """
import os, sys, threading, time
from pathlib import Path
import graft.storage.kept as kept

kept.WORKERS, enter, count = 1, kept._enter, [0]
def dying(*arguments):
    count[0] += 1
    if count[0] == 4:
        print("middle", flush=True)
        time.sleep(60)
    enter(*arguments)
kept._enter = dying
from graft.storage.folders import fetch_folder
place = Path(sys.argv[2])
fetch_folder(sys.argv[1], place / "data", place / "store")
"""


def test_killed_in_the_middle_it_fetches_only_what_is_missing(
    bucket: str, tmp_path: Path, proxy: Proxy
) -> None:
    files = {f"ant/{number}": bytes([number]) * 100 for number in range(8)}
    put(bucket, files)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, f"s3://{bucket}", str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"middle\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert proxy.fetched() == len(kept(tmp_path)) == 3
    proxy.forget()
    fetch(f"s3://{bucket}", tmp_path)
    assert read(tmp_path / "data") == files
    assert proxy.fetched() == 5


def test_what_a_killed_process_was_writing_is_cleared_a_day_later(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"a": b"a"})
    arriving = write(tmp_path / "store" / "arriving", {"old.part": b"half", "new.part": b"half"})
    os.utime(arriving / "old.part", (time.time() - 90_000,) * 2)
    fetch(f"s3://{bucket}", tmp_path)
    assert [file.name for file in arriving.iterdir()] == ["new.part"]


def test_only_what_changed_is_fetched(bucket: str, tmp_path: Path, proxy: Proxy) -> None:
    put(bucket, SMALL)
    address, before = f"s3://{bucket}", fetch(f"s3://{bucket}", tmp_path)
    digest = address_digest(address)
    put(bucket, {"bee/2.png": b"another"})
    proxy.forget()
    assert address_digest(address) != digest
    assert proxy.fetched() == 0
    assert fetch(address, tmp_path) != before
    assert proxy.fetched() == 1
    assert read(tmp_path / "data") == {**SMALL, "bee/2.png": b"another"}


def test_an_etag_that_is_no_md5(bucket: str, tmp_path: Path, proxy: Proxy) -> None:
    """As of an object that was sent in parts."""
    s3, content = boto3.client("s3"), {"ant/1": b"a" * (5 << 20) + b"b", "ant/2": b"c"}
    put(bucket, {"ant/2": b"c"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="ant/1")["UploadId"]
    parts = [
        s3.upload_part(Bucket=bucket, Key="ant/1", UploadId=upload, PartNumber=number, Body=part)
        for number, part in ((1, b"a" * (5 << 20)), (2, b"b"))
    ]
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="ant/1",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": n, "ETag": p["ETag"]} for n, p in enumerate(parts, 1)]},
    )
    assert "-2" in s3.head_object(Bucket=bucket, Key="ant/1")["ETag"]
    proxy.faults["ant/1"] = ["truncate"]
    md5 = fetch(f"s3://{bucket}", tmp_path)
    assert read(tmp_path / "data") == content
    assert md5 == folder_md5(tmp_path / "data")
    proxy.forget()
    assert fetch(f"s3://{bucket}", tmp_path) == md5
    assert proxy.fetched() == 0


def test_a_listing_of_several_pages(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import graft.storage.folders as folders

    put(bucket, {f"ant/{number}": b"%d" % number for number in range(7)})

    def paged() -> object:
        s3 = boto3.client("s3")
        whole = s3.list_objects_v2
        s3.list_objects_v2 = lambda **more: whole(MaxKeys=3, **more)
        return s3

    monkeypatch.setattr(folders, "connect", paged)
    fetch(f"s3://{bucket}", tmp_path)
    assert len(read(tmp_path / "data")) == 7


def test_the_digest_of_a_version_asks_nobody(address: str, proxy: Proxy, small_md5: str) -> None:
    proxy.forget()
    digest = address_digest(address)
    assert proxy.fetched() == 0
    if address.startswith("dvc"):
        assert digest == f"{small_md5}.dir"
        assert not proxy.counts
