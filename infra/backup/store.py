"""Backups in an S3 store: each a folder named by its time, whole once its manifest is there.

    store.py upload FOLDER              FOLDER/database.dump, if it has the hash beside it
    store.py download NAME|latest FOLDER
    store.py list
    store.py bucket s3://NAME ...       make buckets that are not there yet

BACKUPS=s3://bucket/prefix says where. BACKUPS_KEEP_DAYS and BACKUPS_KEEP_AT_LEAST say what an upload leaves
there. Endpoint, region and keys come from boto3's usual environment. Needs Python and boto3, no graft.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DUMP, MANIFEST = "database.dump", "manifest.json"
FORM = "%Y-%m-%dT%H-%M-%SZ"
CHUNK = 1 << 20


class Refused(Exception):
    """Said to whoever runs the job, without a traceback."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Backups in an S3 store.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("upload").add_argument("folder", type=Path)
    download_ = commands.add_parser("download")
    download_.add_argument("name")
    download_.add_argument("folder", type=Path)
    commands.add_parser("list")
    commands.add_parser("bucket").add_argument("addresses", nargs="+")
    given = parser.parse_args(arguments)
    try:
        if given.command == "upload":
            upload(given.folder)
        elif given.command == "download":
            download(given.name, given.folder)
        elif given.command == "list":
            print("\n".join(names()) or "no backup yet")
        else:
            make_buckets(given.addresses)
    except Refused as error:
        sys.exit(f"error: {error}")


def upload(folder: Path, now: datetime | None = None) -> str:
    """Send a dump under a new name, read it back, then delete what is too old; the name."""
    file = folder / DUMP
    digest = _stated(folder)
    if _digest(file.open("rb")) != digest:
        raise Refused(f"{file} is not what was dumped and checked; nothing was sent")
    now = now or datetime.now(timezone.utc)
    name = now.strftime(FORM)
    client, (bucket, prefix) = _client(), _place()
    client.upload_file(str(file), bucket, f"{prefix}{name}/{DUMP}")
    if _digest(client.get_object(Bucket=bucket, Key=f"{prefix}{name}/{DUMP}")["Body"]) != digest:
        raise Refused(f"{name} came back from the store otherwise than it was sent; it does not count")
    manifest = {"sha256": digest, "bytes": file.stat().st_size}
    client.put_object(Bucket=bucket, Key=f"{prefix}{name}/{MANIFEST}", Body=json.dumps(manifest).encode())
    print(f"{name}: {manifest['bytes']} bytes, sha256 {digest[:12]}")
    days, at_least = int(os.environ["BACKUPS_KEEP_DAYS"]), int(os.environ["BACKUPS_KEEP_AT_LEAST"])
    for old in expired(names(), now, timedelta(days=days), at_least):
        _delete(old)
        print(f"{old}: deleted, older than {days} days")
    return name


def download(name: str, folder: Path) -> str:
    """Fetch a backup, and the hash that `restore.sh` asks for; the name."""
    there = names()
    if not there:
        raise Refused(f"there is no backup in {os.environ['BACKUPS']}")
    name = there[-1] if name == "latest" else name
    if name not in there:
        raise Refused(f"there is no backup {name}; there are: {', '.join(there)}")
    client, (bucket, prefix) = _client(), _place()
    manifest = json.load(client.get_object(Bucket=bucket, Key=f"{prefix}{name}/{MANIFEST}")["Body"])
    folder.mkdir(parents=True, exist_ok=True)
    client.download_file(bucket, f"{prefix}{name}/{DUMP}", str(folder / DUMP))
    if _digest((folder / DUMP).open("rb")) != manifest["sha256"]:
        (folder / DUMP).unlink()
        raise Refused(f"{name} is damaged in the store; take another: {', '.join(there)}")
    (folder / f"{DUMP}.sha256").write_text(f"{manifest['sha256']}  {DUMP}\n")
    print(f"{name}: {manifest['bytes']} bytes, as they were sent")
    return name


def names() -> list[str]:
    """The whole backups, oldest first; what an interrupted upload left has no manifest and is not one."""
    bucket, prefix = _place()
    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])]
    return sorted(key.partition("/")[0] for key in keys if key.endswith(f"/{MANIFEST}"))


def expired(there: Iterable[str], now: datetime, keep: timedelta, at_least: int) -> list[str]:
    """Which backups are older than `keep`; the newest `at_least` never are."""
    ordered = sorted(there)
    candidates = ordered[: max(len(ordered) - at_least, 0)]
    return [name for name in candidates if now - _time(name) > keep]


def make_buckets(addresses: Iterable[str]) -> None:
    """Make the buckets that s3:// addresses begin with, where they are not there."""
    client = _client()
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket in sorted({urlsplit(address).netloc for address in addresses} - there):
        client.create_bucket(Bucket=bucket)
        print(f"made the bucket {bucket}")


def _delete(name: str) -> None:
    """The manifest first: what is half deleted is no backup any more."""
    client, (bucket, prefix) = _client(), _place()
    for part in (MANIFEST, DUMP):
        client.delete_object(Bucket=bucket, Key=f"{prefix}{name}/{part}")


def _stated(folder: Path) -> str:
    try:
        return (folder / f"{DUMP}.sha256").read_text().split()[0]
    except FileNotFoundError:
        raise Refused(f"{folder} holds no dump that dump.sh has checked; nothing was sent") from None


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()
    with stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _time(name: str) -> datetime:
    return datetime.strptime(name, FORM).replace(tzinfo=timezone.utc)


def _place() -> tuple[str, str]:
    address = urlsplit(os.environ.get("BACKUPS", ""))
    if address.scheme != "s3" or not address.netloc:
        raise Refused("BACKUPS must be s3://bucket/prefix")
    prefix = address.path.strip("/")
    return address.netloc, f"{prefix}/" if prefix else ""


def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))


if __name__ == "__main__":
    main()
