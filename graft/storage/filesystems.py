"""A folder as Arrow reads it: on this machine, or on S3, where only what is asked for is fetched."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow.fs import AwsStandardS3RetryStrategy, FileSelector, FileSystem, LocalFileSystem, S3FileSystem

from graft.errors import GraftError
from graft.storage.addresses import is_address, split
from graft.storage.client import attempts, endpoint

_ATTEMPTS = 10


def filesystem(folder: str | Path) -> tuple[FileSystem, str]:
    """Where a folder is, and its path there.

    Args:
        folder: On this machine, or s3://bucket/prefix; endpoint and credentials as of `storage.client`.

    Raises:
        GraftError: it is another kind of address.
    """
    if not is_address(str(folder)):
        return LocalFileSystem(use_mmap=True), str(folder)
    bucket, prefix = split(str(folder))
    return _s3(), f"{bucket}/{prefix.strip('/')}"


def names(files: FileSystem, folder: str) -> list[str]:
    """Names of what lies directly in a folder, sorted.

    Raises:
        OSError: it cannot be listed.
    """
    return sorted(each.base_name for each in files.get_file_info(FileSelector(folder, recursive=False)))


def _s3() -> S3FileSystem:
    parts = urlsplit(endpoint())
    try:
        return S3FileSystem(
            scheme=parts.scheme or "https",
            endpoint_override=parts.netloc or None,
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts(_ATTEMPTS)),
        )
    except (OSError, ValueError) as error:
        raise GraftError(
            f"no S3 client can be made: {error}", "check AWS_ENDPOINT_URL and AWS_MAX_ATTEMPTS"
        ) from error
