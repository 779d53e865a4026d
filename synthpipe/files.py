"""Where things lie, on a disk or at any URL that fsspec knows, and how a file is written as a whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes
from uuid import uuid4

import fsspec
import numpy as np
from fsspec.utils import get_protocol
from numpy.typing import NDArray
from upath import UPath

from synthpipe.errors import AccessError, StoreError, SynthpipeError, cause_of, code_of, cure_of, is_of_access
from synthpipe.packages import needs

Location = Path | UPath
"""A path on this machine's file systems, or a URL."""

Buffer = bytes | NDArray[np.uint8]

LARGEST_WEIGHTS = 8 << 30
"""The largest file of a network's weights that is read, in bytes."""

PARTIAL = ".partial"
"""What the names of files end in that are being written; a process that was killed leaves them behind."""

_PART = 16 << 20  # bytes of an upload's parts
_HTTP = ("http", "https")
_NO_PASSWORDS = ("s3", "s3a", "gs", "gcs")  # to them what stands before @ is a part of the bucket's name


def located(text: str | Location) -> Location:
    """Return the path or the URL that a user wrote: ``runs/demo``, ``file:///data``, ``s3://bucket/run``.

    User name and password of an HTTP URL become options of its client, so the text of what is returned lacks them.
    `address` puts them back.

    Raises
    ------
    StoreError
        There is no such kind of URL, or a package that it needs is not installed.
    """
    if not isinstance(text, str):
        return text
    protocol = get_protocol(text).lower() if "://" in text else "file"  # to fsspec, a::b is a URL too
    if protocol in ("file", "local"):
        return Path(text.split("://", 1)[-1])
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    options: dict[str, Any] = {"use_listings_cache": False}  # other processes write there too
    if "@" in host and protocol in _NO_PASSWORDS:
        raise StoreError(
            f"{text}: holds credentials, which {protocol} does not take from a URL; give them to its client"
        )
    if "@" in host and protocol in _HTTP:
        user, _, host = host.rpartition("@")
        options["headers"] = {"Authorization": f"Basic {b64encode(unquote_to_bytes(user)).decode()}"}
    try:
        fsspec.get_filesystem_class(protocol)
        found: UPath = UPath(f"{scheme.lower()}://{host}{slash}{path}", **options)
        _ = found.path  # some refuse a URL only now
        return found
    except ImportError as error:
        name = getattr(error.__cause__, "name", None)  # fsspec names packages in words of its own
        raise StoreError(needs(text, [name]) if name else f"{text}: {error}") from error
    except Exception as error:  # of file systems that need more than a URL
        raise StoreError(f"{text}: {error}; expected a path, or a URL such as s3://bucket/run") from error


def address(path: Location) -> str:
    """Return what `located` was given, with its credentials: for memory only, never to be shown or stored."""
    text = str(path)
    if isinstance(path, Path) or "headers" not in path.storage_options:
        return text
    user, _, password = b64decode(path.storage_options["headers"]["Authorization"].split()[1]).partition(b":")
    return text.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@", 1)


def in_memory(*places: str | Location) -> bool:
    """Whether any of some places is in the memory of this process, where other processes cannot see it."""
    return any(get_protocol(str(place)) == "memory" for place in places)


@contextmanager
def told(path: Location, what: str, cure: str = "check the disk, then give the command again") -> Iterator[None]:
    """Turn what goes wrong while a file is read or written into an error that names it.

    Clients of object stores raise exceptions of their own besides `OSError`.

    Raises
    ------
    StoreError
        Says that `path` `what`, why, and what to do: `cure`, where the kind of error does not tell. An `AccessError`
        where rights, limits or the network are at fault.
    """
    try:
        yield
    except SynthpipeError:
        raise
    except Exception as error:
        if isinstance(path, Path) and not isinstance(error, OSError):
            raise
        kind = AccessError if is_of_access(error) else StoreError
        reason = _in_full(path, error)
        raise kind(f"{path}: {what}: {cause_of(reason)}; {cure_of(reason) or cure}") from error


def _in_full(path: Location, error: Exception) -> Exception:
    """Return why a store refuses; of a HEAD request it tells only the status, so it is asked again in other ways."""
    if not isinstance(path, Path) and code_of(error) in ("400", "403"):
        for ask in (path.fs.isdir, partial(path.fs.cat_file, start=0, end=1)):
            try:
                ask(path.path)
            except Exception as fuller:
                if (code_of(fuller) or "").isalpha() and is_of_access(fuller):
                    return fuller
    return error


@contextmanager
def reached(path: Location) -> Iterator[None]:
    """Name `path` in what keeps it out of reach; other errors pass, such as that of a file that is not there.

    Raises
    ------
    AccessError
        Rights, limits of this process or the network do not let it be read.
    """
    try:
        yield
    except Exception as error:
        if is_of_access(error):
            with told(path, "cannot be read"):
                raise
        raise


def exists(path: Location) -> bool:
    """Whether there is something at a path.

    Raises
    ------
    AccessError
        A store refuses to tell; fsspec's own `isfile` takes that for no.
    """
    with reached(path):
        if isinstance(path, Path):
            return path.exists()
        try:
            path.fs.info(path.path)
        except FileNotFoundError:
            return False
        return True


def read_regular(path: Location, most: int) -> bytes:
    """Read a file, or an object behind a URL, that may be a stranger's: it is neither waited for nor without a bound.

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
    with reached(path):
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


def parse_json(data: bytes | str) -> Any:
    """Read JSON that may be a stranger's.

    Raises
    ------
    ValueError
        It is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFLNK: "a link", stat.S_IFSOCK: "a socket"}
"""What is no file, by the type bits of its mode; all else is a device."""


def _too_large(size: int, most: int) -> OSError:
    return OSError(errno.EOVERFLOW, f"has {size} bytes, expected at most {most}")


def write_atomically(path: Location, data: bytes | str, durable: bool = False) -> None:
    """Write a file, text in UTF-8: whoever looks sees all of it, or what was there before.

    `durable` waits until the bytes are on the disk, so that no power cut leaves an empty file under the name.

    Raises
    ------
    StoreError
        It cannot be written; nothing is left behind.
    """
    content = data.encode() if isinstance(data, str) else data
    if isinstance(path, Path):
        stream_atomically(path, [content], durable)
        return
    with told(path, "cannot be written"):
        path.fs.pipe_file(path.path, content)


def stream_atomically(path: Location, chunks: Iterable[bytes], durable: bool = False) -> None:
    """Write a file of many chunks as `write_atomically` does; behind a URL it is uploaded in parts.

    Raises
    ------
    StoreError
        It cannot be written; nothing is left behind.
    """
    with told(path, "cannot be written"):
        if not isinstance(path, Path):
            with closing(upload(path)) as target:
                for chunk in chunks:
                    target.write(chunk)
                target.finish(b"")
                target.appear()
            return
        with replacing(path, durable) as file:
            file.writelines(chunks)


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well; otherwise nothing is left behind.

    Parameters
    ----------
    path : Path
        Missing, or a file.
    durable : bool
        Whether to wait until the bytes are on the disk.

    Raises
    ------
    StoreError
        `path` is a link, a folder, a pipe or a device.
    OSError
        It cannot be written.
    """
    refuse_irregular(path)
    part = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def refuse_irregular(path: Path) -> None:
    """Refuse to replace what is no regular file; links are not followed.

    Raises
    ------
    StoreError
        The message says what `path` is.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = KINDS.get(stat.S_IFMT(mode), "a device")
            raise StoreError(f"{path}: is {kind}, expected a file or nothing; remove it, or choose another name")


class Upload:
    """An object of a store that takes it in parts, which become the object when it appears."""

    def __init__(self, path: UPath) -> None:
        self._file = path.fs.open(path.path, "wb", autocommit=False, block_size=_PART)
        self._appeared = False

    def write(self, data: Buffer) -> None:
        """Add bytes."""
        self._file.write(data)

    def finish(self, data: Buffer) -> None:
        """Add the last bytes, and see that all are there."""
        self._file.write(data)
        self._file.close()

    def appear(self) -> None:
        """Give the finished object its name."""
        self._file.commit()
        self._appeared = True

    def close(self) -> None:
        """Let go of it; an object that has not appeared leaves nothing behind."""
        if not self._appeared:
            self._file.discard()
            self._file.closed = True  # or it would try to upload the rest when it is collected


class Collected:
    """An object of a store that takes it at once; otherwise as `Upload`."""

    def __init__(self, path: UPath) -> None:
        self._path, self._data = path, bytearray()

    def write(self, data: Buffer) -> None:
        self._data += data.data if isinstance(data, np.ndarray) else data

    def finish(self, data: Buffer) -> None:
        self.write(data)

    def appear(self) -> None:
        self._path.fs.pipe_file(self._path.path, bytes(self._data))

    def close(self) -> None:
        self._data.clear()


def upload(path: UPath) -> Upload | Collected:
    """Begin a new object behind a URL; what is there is replaced when it appears."""
    return Upload(path) if path.fs.async_impl else Collected(path)
