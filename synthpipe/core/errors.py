"""The exceptions that synthpipe raises for bad input and bad state.

Each class also inherits from a builtin exception, so that library users can catch the type that they expect. Only the
command line turns an error into one line and an exit code. Each message says what was found, what was expected and what
to do.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synthpipe.core.display import without_secrets

_SIGNS_OF_FULL_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # from the driver, for contexts and page-locked memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_CLIENTS = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google")  # packages of object stores
_RIGHTS = {errno.EACCES, errno.EPERM}
_LIMITS = {errno.EMFILE, errno.ENFILE}
_NETWORK = {errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
_NETWORK |= {errno.ENETDOWN, errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT}
_CURES = {
    errno.ENOSPC: "free some space, then run the command again",
    errno.EDQUOT: "free some space in your quota, then run the command again",
    errno.EFBIG: "allow larger files (ulimit -f), or choose another disk",
    errno.EROFS: "choose a location that you can write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check that it exists",
    **dict.fromkeys(_RIGHTS, "ask its owner for permission, or run the command as the user who owns it"),
    **dict.fromkeys(_LIMITS, "allow more open files (ulimit -n), or use fewer workers and sets at once"),
    **dict.fromkeys(_NETWORK, "check the address and the network, then run the command again"),
}
_CREDENTIALS = "check that the credentials are right, have not expired, and may read, write and list there"
_EXPIRED = "renew the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or your profile)"
_REGION = "check the region and the address (AWS_DEFAULT_REGION, AWS_ENDPOINT_URL)"
_REFUSALS = {
    "400": _CREDENTIALS,  # the answer to a HEAD request, which has no body with details
    "401": _CREDENTIALS,
    "403": _CREDENTIALS,
    "AccessDenied": _CREDENTIALS,
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": _EXPIRED,
    "InvalidAccessKeyId": "check the key's name (AWS_ACCESS_KEY_ID, or your profile)",
    "InvalidToken": _EXPIRED,
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "set the clock of this machine",
    "SignatureDoesNotMatch": "check the secret key (AWS_SECRET_ACCESS_KEY, or your profile)",
    "TokenRefreshRequired": _EXPIRED,
}
_RIGHT_TO = {  # permissions that requests to S3 need, where the names of permission and request differ
    "CompleteMultipartUpload": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "UploadPart": "PutObject",
}


class SynthpipeError(Exception):
    """Base class of all errors that synthpipe explains to users. Messages never contain credentials of a URL."""

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(message))


class ConfigError(SynthpipeError, ValueError):
    """A pipeline file, or an option that overrides it, is wrong."""


class CatalogError(SynthpipeError, ValueError):
    """The patches on disk do not form a usable data set."""


class StoreError(SynthpipeError, OSError):
    """A run or a Zarr store is missing, damaged, or cannot be written."""


class MissingDonorError(StoreError):
    """A virtual composite cannot be rendered, because the curated set has no pixels of one of its donors."""


class AccessError(StoreError):
    """A file or a store cannot be reached because of permissions, the network or limits of this process."""


class StaleRunError(SynthpipeError, RuntimeError):
    """A run was made with another pipeline, patches or package versions, or another process writes to it."""


class FilterError(SynthpipeError, RuntimeError):
    """The filter cannot be trained, or accepts too few composites."""


class ClusterError(SynthpipeError, RuntimeError):
    """The cluster cannot be reached, its workers cannot run the build, or the connection was lost."""


class GpuError(SynthpipeError, RuntimeError):
    """No GPU can render, or its memory is too small."""


class MissingPackageError(SynthpipeError, ImportError):
    """An optional package is not installed."""


def explain(error: ValueError) -> str:
    """Return one line about invalid data. For a pydantic error, name the first wrong key, its value and the fault."""
    errors: Any = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "it"
    if first["type"] == "missing":
        return f"{key} is missing"
    found = repr(first["input"])
    found = found if len(found) <= 80 else f"{found[:77]}..."
    return f"{key} is {found}; {first['msg'][0].lower()}{first['msg'][1:]}"


_LISTED = 3
_KINDS = 10


def first_of(names: Sequence[str]) -> str:
    """List the first three names, and count the others."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def each_kind_once(problems: Iterable[tuple[Path, str]]) -> str:
    """Return one line for each kind of problem, with the first file, and the names of some other files.

    Two problems are of the same kind if their texts differ only in numbers.
    """
    kinds: dict[str, list[tuple[Path, str]]] = {}
    for path, reason in problems:
        kinds.setdefault(re.sub(r"\d+", "0", reason), []).append((path, reason))
    lines = []
    for (path, reason), *others in kinds.values():
        more = first_of([other.name for other, _ in others])
        lines.append(f"{path}: {reason}" + (f"; the same for {len(others)} more: {more}" if others else ""))
    if len(lines) > _KINDS:
        lines[_KINDS:] = [f"and {len(lines) - _KINDS} more kinds of problems"]
    return "\n  ".join(lines)


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or a CPU was full."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's class; importing torch would take seconds
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_FULL_MEMORY))
    )


def cause_of(error: BaseException) -> str:
    """Return the cause of a file or store error as text, with the store's error code."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    code = code_of(error)
    return f"{said} ({code})" if code and code not in said else said


def code_of(error: BaseException) -> str | None:
    """Return the error code of an S3 store, or None for other errors."""
    response = _of_request(error, "response")
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _of_request(error: BaseException, name: str) -> Any:
    """Return an attribute of an S3 client's exception. s3fs raises its own exception from the client's."""
    return getattr(error, name, None) or getattr(error.__cause__, name, None)


def cure_of(error: BaseException) -> str | None:
    """Return advice about a file or store error, or None for unknown kinds of errors."""
    code, request = code_of(error), _of_request(error, "operation_name")
    if code == "AccessDenied" and request:
        return f"ask for the permission s3:{_RIGHT_TO.get(request, request)} there, or use other credentials"
    if code in _REFUSALS:
        return _REFUSALS[code]
    number = getattr(error, "errno", None)
    if isinstance(error, PermissionError) and number not in _RIGHTS:  # a store raised it, not the system
        return _CREDENTIALS
    if number in _CURES:
        return _CURES[number]
    unreached = any(word in type(error).__name__ for word in ("Connect", "Endpoint", "Timeout"))
    if unreached or isinstance(error, ConnectionError):
        return _CURES[errno.ETIMEDOUT]
    return f"{_CREDENTIALS}, and check the address and the network" if is_of_client(error) else None


def is_of_access(error: BaseException) -> bool:
    """Return whether an error is about permissions, limits or the network, and not about stored content."""
    of_access = isinstance(error, PermissionError | ConnectionError | TimeoutError) or is_of_client(error)
    of_access = of_access or code_of(error) in _REFUSALS
    return of_access or getattr(error, "errno", None) in _RIGHTS | _LIMITS | _NETWORK


def is_of_client(error: BaseException) -> bool:
    """Return whether an exception is from the client package of an object store."""
    return type(error).__module__.split(".")[0] in _CLIENTS
