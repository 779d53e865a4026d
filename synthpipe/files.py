"""Writing files as a whole or not at all."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from synthpipe.errors import StoreError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file, text in UTF-8, under a temporary name beside `path`, then give it its own.

    Raises
    ------
    StoreError
        It cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data.encode() if isinstance(data, str) else data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}; make room, or choose another place") from error
