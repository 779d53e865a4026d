"""Read untrusted files: only regular files, up to a size limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from synthpipe.files.locations import KINDS, Location, translate_access_errors

LARGEST_WEIGHTS = 8 << 30
"""The largest file of a network's weights that is read, in bytes."""


def read_regular(path: Location, most: int) -> bytes:
    """Read an untrusted file or object behind a URL, without waiting for pipes and up to a size limit.

    Parameters
    ----------
    path : Path or UPath
        A link is followed.
    most : int
        The largest size in bytes.

    Raises
    ------
    AccessError
        Rights, limits of this process or the network do not let it be read.
    OSError
        It is not there, cannot be read, is no regular file, or is larger; `strerror` says which.
    """
    with translate_access_errors(path):
        return _read(path, most)


def _read(path: Location, most: int) -> bytes:
    if not isinstance(path, Path):
        try:
            size = path.fs.size(path.path)
        except FileNotFoundError:  # so says HTTP's client of whatever it is refused; reading tells more
            size = None
        if size is not None and size > most:
            raise _too_large(size, most)
        try:
            data = bytes(path.fs.cat_file(path.path) if size is not None else path.fs.cat_file(path.path, end=most + 1))
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such object") from error
        if len(data) > most:
            raise _too_large(len(data), most)
        return data
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise _too_large(size, most)
        data = file.read(size + 1)
        if len(data) > size:  # it grows, or has no size, as files of /proc
            data += file.read(most + 1 - len(data))
    if len(data) > most:
        raise _too_large(len(data), most)
    return data


def open_regular(path: Path) -> int:
    """Open a file to read from, and return its descriptor; a link is followed.

    Raises
    ------
    OSError
        It is not there, cannot be read, or is no regular file; `strerror` says which.
    """
    try:
        # a pipe that nobody writes to would be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds U+0000, which no file's name does") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"is {KINDS.get(stat.S_IFMT(mode), 'a device')}, expected a file")
    return descriptor


def _too_large(size: int, most: int) -> OSError:
    return OSError(errno.EOVERFLOW, f"has {size} bytes, expected at most {most}")
