"""What cannot be had from S3 is named with its address and what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import boto3
import pytest

from graft.errors import GraftError
from graft.storage.addresses import Place, is_address, parse
from graft.storage.client import refusal
from graft.storage.folders import address_digest, fetch_folder
from graft.storage.objects import fetch_object
from tests.storage.conftest import SMALL, put, version_of
from tests.storage.proxy import Proxy

MD5 = "0123456789abcdef0123456789abcdef"


def failure(address: str, place: Path) -> GraftError:
    with pytest.raises(GraftError) as caught:
        fetch_folder(address, place / "data", place / "store")
    assert not (place / "data").exists()
    return caught.value


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("s3://b", Place("b", "")),
        ("s3://b/", Place("b", "")),
        ("s3://b/some/where/", Place("b", "some/where")),
        ("s3://b/odd?md5=1#%20", Place("b", "odd?md5=1#%20")),
        (f"dvc+s3://b?md5={MD5}.dir", Place("b", "", MD5)),
        (f"dvc+s3://b/remote/here?md5={MD5.upper()}", Place("b", "remote/here", MD5)),
    ],
)
def test_addresses(address: str, place: Place) -> None:
    assert is_address(address)
    assert parse(address) == place
    assert parse(str(place)) == place


@pytest.mark.parametrize("path", ["data", "/abs/olute", "./s3/x", "C:\\data", "s3:x", "a b://x", "data.dvc"])
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)


@pytest.mark.parametrize(
    ("address", "problem", "fix"),
    [
        ("s3://", "no address on S3", "s3://bucket/prefix"),
        ("gs://bucket/data", "gs://bucket/data", "s3://bucket/prefix"),
        ("dvc+s3://bucket/remote", "no address of data", "?md5="),
        ("dvc+s3://bucket/remote?md5=abc", "'abc' is not the md5 of a folder", "data.dvc"),
        ("git+https://host/team/repository@main", "where a run is started", "graft retrain --data"),
    ],
)
def test_what_is_no_address(address: str, problem: str, fix: str) -> None:
    with pytest.raises(GraftError) as caught:
        address_digest(address)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_bucket_that_does_not_exist(proxy: Proxy, tmp_path: Path) -> None:
    for address in ("s3://nowhere-at-all/data", f"dvc+s3://nowhere-at-all/data?md5={MD5}.dir"):
        error = failure(address, tmp_path)
        assert address in error.problem
        assert "the bucket does not exist" in error.problem
        assert proxy.url in error.problem
        assert "AWS_ENDPOINT_URL" in error.fix


def test_without_credentials(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it knows them still
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    error = failure(f"s3://{bucket}/data", tmp_path)
    assert "redentials" in error.problem
    assert "AWS_ACCESS_KEY_ID" in error.fix
    assert "service account" in error.fix


@pytest.mark.parametrize(
    ("code", "problem", "fix"),
    [
        ("AccessDenied", "AccessDenied: no", "service account"),
        ("ExpiredToken", "ExpiredToken: no", "AWS_ACCESS_KEY_ID"),
        ("NoSuchKey", "there is no such object", "check bucket and key"),
        ("InvalidObjectState", "InvalidObjectState: no", "check bucket and key"),
    ],
)
def test_what_the_server_says(code: str, problem: str, fix: str) -> None:
    from botocore.exceptions import ClientError

    error = refusal(ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject"), "s3://b/k")
    assert f"s3://b/k cannot be fetched: {problem}" in error.problem
    assert fix in error.fix


def test_nothing_below_the_prefix(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"data2/ant/1.png": b"x", "data/": b""})
    error = failure(f"s3://{bucket}/data", tmp_path)
    assert error.problem == f"there is no object below s3://{bucket}/data/"
    assert "aws s3 sync" in error.fix


def test_a_version_that_nobody_pushed(bucket: str, tmp_path: Path) -> None:
    address = f"dvc+s3://{bucket}/remote?md5={MD5}.dir"
    error = failure(address, tmp_path)
    assert address in error.problem
    assert "dvc push" in error.fix
    assert "data.dvc" in error.fix


def test_a_version_of_which_an_object_is_missing(bucket: str, tmp_path: Path) -> None:
    md5, objects = version_of(SMALL, "remote/")
    key = next(key for key, content in objects.items() if content == SMALL["bee/2.png"])
    put(bucket, {name: content for name, content in objects.items() if name != key})
    error = failure(f"dvc+s3://{bucket}/remote?md5={md5}.dir", tmp_path)
    assert "bee/2.png" in error.problem
    assert f"s3://{bucket}/{key}" in error.problem
    assert "run `dvc push`" in error.fix


def test_a_remote_is_not_a_data_folder(bucket: str, tmp_path: Path) -> None:
    put(bucket, version_of(SMALL, "remote/")[1])
    error = failure(f"s3://{bucket}/remote", tmp_path)
    assert "is a DVC remote" in error.problem
    assert f"dvc+s3://{bucket}/remote?md5=" in error.fix


def test_a_list_that_was_changed(bucket: str, tmp_path: Path) -> None:
    md5, objects = version_of(SMALL)
    put(bucket, {**objects, f"files/md5/{md5[:2]}/{md5[2:]}.dir": b"[]"})
    assert "md5" in failure(f"dvc+s3://{bucket}?md5={md5}.dir", tmp_path).problem


@pytest.mark.parametrize(
    "entry", [{"md5": "x", "relpath": "a"}, {"md5": MD5}, "a", {"md5": MD5, "relpath": 1}]
)
def test_what_has_the_md5_but_is_no_list(bucket: str, tmp_path: Path, entry: object) -> None:
    content = json.dumps([entry]).encode()
    md5 = hashlib.md5(content).hexdigest()
    put(bucket, {f"files/md5/{md5[:2]}/{md5[2:]}.dir": content})
    assert "not DVC's list" in failure(f"dvc+s3://{bucket}?md5={md5}.dir", tmp_path).problem


@pytest.mark.parametrize(
    "names", [("../out",), ("/etc/x",), ("a/../../b",), ("a//b",), ("a", "a/b"), ("./a",)]
)
def test_names_that_lead_out_of_the_folder(bucket: str, tmp_path: Path, names: tuple[str, ...]) -> None:
    md5, objects = version_of(dict.fromkeys(names, b"x"))
    put(bucket, objects)
    error = failure(f"dvc+s3://{bucket}?md5={md5}.dir", tmp_path)
    assert repr(names[-1]) in error.problem
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_an_object_that_changes_while_it_is_read(bucket: str, tmp_path: Path, proxy: Proxy) -> None:
    import graft.storage.folders as folders

    put(bucket, {"ant/1": b"before"})
    whole = folders.fetch_all

    def later(*arguments: object) -> object:
        put(bucket, {"ant/1": b"after!"})
        return whole(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "fetch_all", later)
        error = failure(f"s3://{bucket}", tmp_path)
    assert "changed while it was being read" in error.problem


def test_one_object(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"w.pth": b"weights"})
    fetch_object(f"s3://{bucket}/w.pth", tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == b"weights"
    for address, problem in (
        (f"s3://{bucket}/v.pth", "no such object"),
        (f"s3://{bucket}", "not an object's"),
    ):
        with pytest.raises(GraftError, match=problem):
            fetch_object(address, tmp_path / "v.pth")
    assert not (tmp_path / "v.pth").exists()
