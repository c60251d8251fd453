"""Objects from S3, each whole and with the right bytes, or an error and no file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from graft.errors import GraftError
from graft.files import whole_file
from graft.progress import transfer
from graft.storage.addresses import PLAIN, Place, split
from graft.storage.client import connect, faults, persistently, refusal

Told = Callable[[int, int], None]  # files and bytes that arrived
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Object:
    """An object, and what is known of it before it is fetched.

    Attributes:
        bucket, key: Where it is.
        called: How errors name it.
        md5: That its bytes must have, in hexadecimal; None where only the ETag speaks.
        size: In bytes; None where unknown.
        etag: As the server gives it, with its quotes; None where unknown.
        absent: The fix where it is not there.
    """

    bucket: str
    key: str
    called: str
    md5: str | None = None
    size: int | None = None
    etag: str | None = None
    absent: str | None = None

    @property
    def stated_md5(self) -> str | None:
        """The md5 that its bytes have if the ETag is one, as that of an object sent in one part is."""
        if self.md5 or not self.etag or self.bucket.endswith("--x-s3"):  # a directory bucket has others
            return self.md5
        etag = self.etag.strip('"').lower()
        return etag if re.fullmatch(r"[0-9a-f]{32}", etag) else None


def listing(s3: Any, place: Place) -> Iterator[tuple[str, Object]]:
    """Every object below a place, with its key relative to it; folder markers are left out.

    Raises:
        GraftError: the bucket cannot be listed.
    """
    prefix = place.key("")
    more: dict[str, str] = {}
    while True:
        try:
            page = persistently(partial(s3.list_objects_v2, Bucket=place.bucket, Prefix=prefix, **more))
        except faults() as error:
            raise refusal(error, str(place)) from error
        for each in page.get("Contents", ()):
            key = each["Key"]
            if not key.endswith("/"):
                called = f"{PLAIN}{place.bucket}/{key}"
                yield (
                    key.removeprefix(prefix),
                    Object(place.bucket, key, called, None, each["Size"], each["ETag"]),
                )
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def download(s3: Any, wanted: Object, path: Path, tell: Told) -> str:
    """Stream an object to a file; gives its md5.

    A connection that breaks is taken up where it broke. Wrong bytes are fetched a second time, since they
    may have been hurt on the way; the same twice is an error.

    Raises:
        GraftError: it cannot be fetched, or is not what it should be; what is in the file is then void.
    """
    with path.open("wb") as file:
        for _ in range(2):
            file.seek(0)
            file.truncate()
            fault, md5 = _streamed(s3, wanted, file, tell)
            if fault is None:
                return md5
            tell(0, -file.tell())
    raise GraftError(
        f"{wanted.called} was fetched twice, and {fault}",
        "the stored object is damaged, or something on the way changes it: send it again from a whole copy "
        "(dvc push after removing it from the remote, or aws s3 cp)",
    )


def _streamed(s3: Any, wanted: Object, file: BinaryIO, tell: Told) -> tuple[str | None, str]:
    """What is wrong with the bytes, and their md5."""
    from botocore.exceptions import FlexibleChecksumError

    md5, fault = hashlib.md5(usedforsecurity=False), None

    def go_on() -> dict[str, Any]:
        more = {"IfMatch": wanted.etag} if wanted.etag else {}
        if file.tell():
            more["Range"] = f"bytes={file.tell()}-"
        answer: dict[str, Any] = s3.get_object(Bucket=wanted.bucket, Key=wanted.key, **more)
        with closing(answer["Body"]) as body:
            while chunk := body.read(_CHUNK):
                file.write(chunk)
                md5.update(chunk)
                tell(0, len(chunk))
        return answer

    try:
        answer = persistently(go_on)
        fault = _fault(wanted, answer, file.tell(), md5.hexdigest())
    except FlexibleChecksumError as error:
        fault = f"its checksum is wrong: {error}"
    except faults() as error:
        raise refusal(error, wanted.called, absent=wanted.absent) from error
    return fault, md5.hexdigest()


def _fault(wanted: Object, answer: dict[str, Any], size: int, md5: str) -> str | None:
    if wanted.size is not None and size != wanted.size:
        return f"{size} bytes came instead of {wanted.size}"
    encrypted = "kms" in answer.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in answer
    expected = wanted.md5 if encrypted else wanted.stated_md5  # then the ETag is no md5
    return f"its md5 is {md5} instead of {expected}" if expected and md5 != expected else None


def fetch_object(address: str, path: Path) -> None:
    """Fetch one object, s3://bucket/key, to a file; what cannot be had whole leaves no file.

    Raises:
        GraftError: it cannot be fetched, or is not what the server says it should be.
    """
    bucket, key = split(address)
    if not key:
        raise GraftError(f"{address!r} is not an object's address", "write s3://bucket/key")
    s3 = connect()
    try:
        head = persistently(lambda: s3.head_object(Bucket=bucket, Key=key))
    except faults() as error:
        raise refusal(error, address) from error
    wanted = Object(bucket, key, address, None, head["ContentLength"], head["ETag"])
    with whole_file(path) as temporary:
        tell = transfer(f"fetching {address}", files=1, size=wanted.size)
        download(s3, wanted, temporary, tell)
        tell(1, 0)
