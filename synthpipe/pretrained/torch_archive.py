"""Read files that ``torch.save`` wrote (users' weights, old checkpoints) without running code from them."""

from __future__ import annotations

import io
import pickletools  # nosec B403 # it only lists operations and does not run them
import zipfile
from typing import Any, BinaryIO

import torch

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
_OPERATIONS = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE GLOBAL REDUCE BUILD "
    "BINPERSID EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT "
    "LONG_BINPUT BINGET LONG_BINGET"
)
_PICKLES_BEFORE_DATA = 3  # at the start of a stream: magic number, version, description of the writing machine


def read(data: bytes) -> Any:
    """Return the content of a file that ``torch.save`` wrote, with all tensors on the CPU.

    The file may be an archive, or a stream, which torch wrote before version 1.6. All members of an archive are checked
    against their CRC-32. Only tensors and plain values are created. These take no more memory than the file, unless
    several tensors use the same bytes of the file.

    Raises
    ------
    ValueError
        The file is damaged, or contains something other than tensors and plain values.
    """
    try:
        checked = _checked_archive(data) if data.startswith(b"PK") else _checked_stream(data)
        return torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickletools and torch raise errors of many types
        reason = str(error).partition("\n")[0][:160]
        raise ValueError(reason or type(error).__name__) from error


def _checked_archive(data: bytes) -> BinaryIO:
    """Check an archive and return a copy of it. torch then reads exactly the members that were checked."""
    checked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(checked, "w") as copy:
        members = archive.infolist()
        names = {member.filename for member in members}
        size = sum(member.file_size for member in members)
        if size > len(data) or len(names) < len(members) or any(member.compress_type for member in members):
            raise ValueError("its members are compressed, or overlap")
        for member in members:
            content = archive.read(member)  # also checks the CRC-32
            if member.filename.endswith("data.pkl"):
                _check_pickle(io.BytesIO(content))
            copy.writestr(member.filename, content)
    checked.seek(0)
    return checked


def _checked_stream(data: bytes) -> BinaryIO:
    """Check the pickles of a stream and the sizes that they declare, and return the stream."""
    stream = io.BytesIO(data)
    for _ in range(_PICKLES_BEFORE_DATA):
        _check_pickle(stream)
    for _ in ("data", "keys of the storages"):
        _check_pickle(stream, largest=len(data))
    stream.seek(0)
    return stream


def _check_pickle(stream: BinaryIO, largest: int | None = None) -> None:
    """Raise an error if a pickle creates anything but tensors and plain values, or declares a size above `largest`."""
    known = set(_OPERATIONS.split())
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name not in known or (name == "GLOBAL" and argument not in _NAMES):
            raise ValueError(f"expected tensors and plain values, found {argument if name == 'GLOBAL' else name}")
        if largest is not None and isinstance(argument, int) and argument > largest:
            raise ValueError(f"it declares {argument} values, but has {largest} bytes")
