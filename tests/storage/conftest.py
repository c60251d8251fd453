"""An S3 server over HTTP behind a proxy that can do harm."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from graft.files import folder_md5
from tests.storage.proxy import Proxy

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[Proxy]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(f"http://{host}:{port}")
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.shutdown()
    server.stop()


@pytest.fixture
def proxy(s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy, and an environment in which it is the S3 server."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_proxy.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RETRY_MODE": "standard",  # adaptive takes seconds to find its pace again
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "localhost,127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("graft.storage.client._LONGEST_PAUSE", 0.05)
    s3_proxy.forget()
    yield s3_proxy
    s3_proxy.forget()


@pytest.fixture
def bucket(proxy: Proxy) -> str:
    """A bucket of its own."""
    import boto3

    name = f"data-{uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


def put(bucket: str, files: Files, *, checksums: bool = False) -> None:
    """Send objects; few servers but Amazon's keep checksums beside them, so that md5 has to do."""
    import boto3
    from botocore.config import Config

    calculation = "when_supported" if checksums else "when_required"
    s3: Any = boto3.client("s3", config=Config(request_checksum_calculation=calculation))
    for key, content in files.items():
        s3.put_object(Bucket=bucket, Key=key, Body=content)


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> Files:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def version_of(files: Files, prefix: str = "") -> tuple[str, Files]:
    """A folder's md5, and the objects that DVC would push for it."""
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    listed = json.dumps([{"md5": md5s[name], "relpath": name} for name in sorted(files)]).encode()
    md5 = hashlib.md5(listed).hexdigest()
    objects = {f"{prefix}files/md5/{md5s[n][:2]}/{md5s[n][2:]}": content for n, content in files.items()}
    return md5, {**objects, f"{prefix}files/md5/{md5[:2]}/{md5[2:]}.dir": listed}


SMALL: Files = {
    "bee/1.png": b"one" * 1000,
    "bee/2.png": b"two" * 1000,
    "ant/ü 1.png": b"three" * 999,
    "ant/same.png": b"one" * 1000,
    "empty": b"",
}


@pytest.fixture(params=["plain", "version"])
def address(request: pytest.FixtureRequest, bucket: str) -> str:
    """SMALL on S3, laid out as a folder and as a DVC version."""
    if request.param == "plain":
        put(bucket, {f"some/where/{name}": content for name, content in SMALL.items()})
        return f"s3://{bucket}/some/where"
    md5, objects = version_of(SMALL, "remote/")
    put(bucket, objects)
    return f"dvc+s3://{bucket}/remote?md5={md5}.dir"


@pytest.fixture(scope="session")
def small_md5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folder_md5(write(tmp_path_factory.mktemp("small"), SMALL))
