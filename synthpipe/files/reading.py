"""Read untrusted files: only regular files, up to a size limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from synthpipe.files.locations import KINDS, Location, translate_access_errors

LARGEST_WEIGHTS = 8 << 30
"""Size limit of files with a network's weights, in bytes."""


def read_regular(path: Location, most: int) -> bytes:
    """Read an untrusted file or an object behind a URL, up to a size limit. Pipes are refused.

    Parameters
    ----------
    path : Path or UPath
        The file or object. A link is followed.
    most : int
        The largest size in bytes.

    Raises
    ------
    AccessError
        Permissions, limits of this process or the network prevent reading.
    OSError
        The file does not exist, cannot be read, is not a regular file, or is too large; `strerror` says which.
    """
    with translate_access_errors(path):
        return _read(path, most)


def _read(path: Location, most: int) -> bytes:
    if not isinstance(path, Path):
        try:
            size = path.fs.size(path.path)
        except FileNotFoundError:  # the HTTP client raises this for every refusal; reading gives the true error
            size = None
        if size is not None and size > most:
            raise _too_large(size, most)
        try:
            data = bytes(path.fs.cat_file(path.path) if size is not None else path.fs.cat_file(path.path, end=most + 1))
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "the object does not exist") from error
        if len(data) > most:
            raise _too_large(len(data), most)
        return data
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise _too_large(size, most)
        data = file.read(size + 1)
        if len(data) > size:  # the file grows, or has no size, like a file in /proc
            data += file.read(most + 1 - len(data))
    if len(data) > most:
        raise _too_large(len(data), most)
    return data


def open_regular(path: Path) -> int:
    """Open a file for reading, and return its descriptor. A link is followed.

    Raises
    ------
    OSError
        The file does not exist, cannot be read, or is not a regular file; `strerror` says which.
    """
    try:
        # without O_NONBLOCK, opening a pipe waits for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, "the name contains U+0000, which no file name can contain") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"is {KINDS.get(stat.S_IFMT(mode), 'a device')}, expected a file")
    return descriptor


def _too_large(size: int, most: int) -> OSError:
    return OSError(errno.EOVERFLOW, f"has {size} bytes, expected at most {most}")
