"""The S3 client, how long it tries, and what its errors mean to a user.

Endpoint, region and credentials come from where every AWS program takes them: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE with ~/.aws, or the role of
the pod's service account (IRSA: AWS_ROLE_ARN with AWS_WEB_IDENTITY_TOKEN_FILE) or of the machine.
AWS_RETRY_MODE and AWS_MAX_ATTEMPTS are obeyed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from graft.errors import GraftError

T = TypeVar("T")

WORKERS = 16  # objects that travel at once
_ROUNDS = 5  # of _ATTEMPTS requests each
_ATTEMPTS = 4
_CONNECT, _READ = 10, 30  # seconds without an answer
_LONGEST_PAUSE = 20.0  # seconds between rounds
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout"}
_WHICH = "check bucket and key, the credentials (AWS_ACCESS_KEY_ID ...) and, for a server other than "
_GENERAL = f"{_WHICH}Amazon's, AWS_ENDPOINT_URL"
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give the pod's service account a "
    "role that may list the bucket and read its objects"
)
_DENIED = {
    "AccessDenied",
    "403",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}


def connect() -> Any:
    """An S3 client; it slows itself down when the server says so.

    Raises:
        GraftError: the environment does not hold together, such as a profile that does not exist.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        retries = {
            "mode": os.environ.get("AWS_RETRY_MODE", "adaptive"),
            "total_max_attempts": attempts(_ATTEMPTS),
        }
        config = Config(
            connect_timeout=_CONNECT, read_timeout=_READ, retries=retries, max_pool_connections=WORKERS
        )
        return boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # as of a bad endpoint
        raise GraftError(f"no S3 client can be made: {first_line(error)}", _GENERAL) from error


def endpoint() -> str:
    """The server's URL; "" where it is Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def attempts(usual: int) -> int:
    """How often a request is made before it has failed: as the environment says, or as usual.

    Raises:
        ValueError: it says no number.
    """
    return int(os.environ.get("AWS_MAX_ATTEMPTS", usual))


def persistently(call: Callable[[], T]) -> T:
    """Call again, after growing random pauses, while the server is busy or connections break.

    botocore repeats requests by itself, but not those whose answer breaks off in the middle.
    A server that cannot be reached at all is not tried longer than botocore does.
    """
    for number in range(_ROUNDS - 1):
        try:
            return call()
        except faults() as error:
            if not _passing(error):
                raise
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 2.0**number)))
    return call()


def faults() -> tuple[type[Exception], ...]:
    """What S3 calls raise."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, HTTPError


def code_of(error: Exception) -> str:
    """S3's name of the error, such as NoSuchKey; "" where the server did not say."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def refusal(error: Exception, what: str, *, absent: str | None = None) -> GraftError:
    """The error for a user.

    Args:
        error: One of `faults`.
        what: What was asked for, with its address.
        absent: The fix where the object is not there.
    """
    code, fix = code_of(error), _GENERAL
    reason = f"{code}: {_message(error)}" if code else first_line(error)
    if code in ("NoSuchKey", "404"):
        reason, fix = "there is no such object", absent or _GENERAL
    elif code == "NoSuchBucket":
        reason = "the bucket does not exist there"
    elif code == "PreconditionFailed":
        reason, fix = "it changed while it was being read", "run again when nobody writes there"
    elif code in _DENIED or "Credentials" in type(error).__name__:
        fix = _CREDENTIALS
    return GraftError(f"{what} cannot be fetched: {reason}{_at_endpoint()}", fix)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _passing(error: Exception) -> bool:
    from botocore import exceptions as known
    from urllib3.exceptions import HTTPError

    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or code_of(error) in _BUSY
    broken = (known.IncompleteReadError, known.ReadTimeoutError, known.ConnectionClosedError, HTTPError)
    return isinstance(error, (*broken, known.ResponseStreamingError))


def _message(error: Exception) -> str:
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Message", ""))


def _at_endpoint() -> str:
    return f" ({endpoint()})" if endpoint() else ""
