"""Read and write ``SHA256SUMS``: the checksums of a finished run's small files.

`sha256sum --check SHA256SUMS` can check the files too. The last line is a comment with the checksum of all other lines.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from synthpipe.core.errors import AccessError, StoreError
from synthpipe.files.locations import Location, exists
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.storage.run import RunDirectory

_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_LARGEST = 1 << 20  # bytes
_MOST = 1 << 31  # bytes; the weights of filters are the largest files
_END = "# sha256 of the lines above: "


def write_checksums(run: RunDirectory, known: Mapping[Location, bytes]) -> None:
    """Write the checksums of a run's small files.

    `known` has the content of the small files that are written after this call.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    contents = {path: read_file(path) for path in run.small_files() if exists(path)} | dict(known)
    digests = {_name(run, path): sha256(data) for path, data in contents.items()}
    text = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    write_atomically(run.sums_file, f"{text}{_END}{sha256(text.encode())}\n", durable=True)


def read_checksums(run: RunDirectory) -> dict[Location, str]:
    """Return the checksums of the small files that ``SHA256SUMS`` lists.

    Raises
    ------
    StoreError
        The file is missing or damaged, or it lists a file that is not a small file of a run.
    """
    try:
        text = read_regular(run.sums_file, _LARGEST).decode("ascii")
    except FileNotFoundError as error:
        raise StoreError(f"{run.sums_file}: the file does not exist") from error
    except AccessError:
        raise
    except OSError as error:
        raise StoreError(f"{run.sums_file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{run.sums_file}: the file has bytes that are not ASCII") from error
    body, _, end = text.rpartition(_END)
    if end != f"{sha256(body.encode())}\n":
        raise StoreError(f"{run.sums_file}: the last line is not the checksum of the lines before it")
    known = {_name(run, path): path for path in run.small_files()}
    checksums = dict[Location, str]()
    for line in body.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match[2] not in known:
            raise StoreError(f"{run.sums_file}: line {line[:200]!r} does not name a small file of a run")
        checksums[known[match[2]]] = match[1]
    return checksums


def read_file(path: Location) -> bytes:
    """Return the bytes of a small file of a run.

    Raises
    ------
    OSError
        The file does not exist, is not a regular file, is too large, or cannot be read.
    """
    return read_regular(path, _MOST)


def _name(run: RunDirectory, path: Location) -> str:
    """Return the path of a small file relative to its run."""
    return str(path).removeprefix(f"{run.path}/")


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
