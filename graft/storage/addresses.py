"""Where a data folder is, as one string.

    data                                     a folder on this machine
    s3://bucket/prefix                       objects laid out as a data folder
    dvc+s3://bucket/prefix?md5=<32 hex>.dir  a version in the DVC remote s3://bucket/prefix

A step takes these three. Where a run is started, two more are turned into the third (`revisions.settle`),
so that the pod needs neither Git nor DVC: the path of a .dvc file, and git+URL@REVISION.

Nothing is percent-decoded: what stands between the slashes is the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graft.errors import GraftError

PLAIN, VERSIONED = "s3://", "dvc+s3://"
_FORMS = "write s3://bucket/prefix, or dvc+s3://bucket/prefix?md5=<32 hexadecimal digits>.dir"


@dataclass(frozen=True)
class Place:
    """Where objects are.

    Attributes:
        bucket: Its name.
        prefix: Without "/" at either end; "" for the whole bucket.
        md5: Of the data folder, where the place is a DVC remote; None where it is the folder itself.
    """

    bucket: str
    prefix: str
    md5: str | None = None

    def key(self, relative: str) -> str:
        """The key of what is below."""
        return f"{self.prefix}/{relative}" if self.prefix else relative

    def __str__(self) -> str:
        path = f"{self.bucket}/{self.prefix}".rstrip("/")
        return f"{PLAIN}{path}" if self.md5 is None else f"{VERSIONED}{path}?md5={self.md5}.dir"


def is_address(text: str) -> bool:
    """Whether this is an address rather than a path on this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|git\+", text) is not None


def parse(address: str) -> Place:
    """Read an address that a step takes.

    Raises:
        GraftError: it is none, or its md5 is not that of a folder.
    """
    if address.startswith("git+"):
        raise GraftError(
            f"{address} is resolved where a run is started, not inside a step",
            "start the run with `graft retrain --data`, or give the step the version itself: "
            "dvc+s3://bucket/prefix?md5=... with the md5 in data.dvc",
        )
    if address.startswith(PLAIN):
        bucket, prefix = split(address)
        return Place(bucket, prefix.strip("/"))
    remote, said, md5 = address.partition("?md5=")
    if not address.startswith(VERSIONED) or not said:
        raise GraftError(f"{address!r} is no address of data", _FORMS)
    return versioned(remote.removeprefix("dvc+"), md5)


def versioned(remote: str, md5: str) -> Place:
    """A version of a data folder in a DVC remote.

    Args:
        remote: s3://bucket/prefix, as in .dvc/config.
        md5: As in data.dvc; ".dir" behind it may be left out.

    Raises:
        GraftError: either is something else.
    """
    digits = md5.removesuffix(".dir").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        raise GraftError(
            f"{md5!r} is not the md5 of a folder", "take the one in data.dvc, 32 digits and .dir"
        )
    bucket, prefix = split(remote)
    return Place(bucket, prefix.strip("/"), digits)


def split(address: str) -> tuple[str, str]:
    """Bucket and key (or prefix) of s3://bucket/key.

    Raises:
        GraftError: there is no bucket, or it is another kind of address.
    """
    bucket, _, key = address.removeprefix(PLAIN).partition("/")
    if not address.startswith(PLAIN) or not bucket:
        raise GraftError(f"{address!r} is no address on S3", _FORMS)
    return bucket, key
