"""What ``torch.save`` wrote, read without running its code: weights of others, and checkpoints of format version 1."""

from __future__ import annotations

import io
import pickletools  # nosec B403 # it lists operations, and runs none
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
_PICKLES_BEFORE_DATA = 3  # of a stream: its magic number, its version, the machine that wrote it


def read(data: bytes) -> Any:
    """Return what ``torch.save`` wrote, as an archive or as the stream of versions before 1.6; tensors on the CPU.

    Every byte of an archive that counts is compared with its CRC-32. Only tensors and plain values are made, and these
    are no larger than the file, unless they repeat its bytes.

    Raises
    ------
    ValueError
        The file is damaged, or holds something other than tensors and plain values.
    """
    try:
        checked = _checked_archive(data) if data.startswith(b"PK") else _checked_stream(data)
        return torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickletools and torch fail in ways of their own
        reason = str(error).partition("\n")[0][:160]
        raise ValueError(reason or type(error).__name__) from error


def _checked_archive(data: bytes) -> BinaryIO:
    """Return a copy of an archive: torch reads what was checked, and not another archive in the same bytes."""
    checked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(checked, "w") as copy:
        members = archive.infolist()
        names = {member.filename for member in members}
        size = sum(member.file_size for member in members)
        if size > len(data) or len(names) < len(members) or any(member.compress_type for member in members):
            raise ValueError("its members are compressed, or overlap")
        for member in members:
            content = archive.read(member)  # which checks the CRC-32
            if member.filename.endswith("data.pkl"):
                _check_pickle(io.BytesIO(content))
            copy.writestr(member.filename, content)
    checked.seek(0)
    return checked


def _checked_stream(data: bytes) -> BinaryIO:
    """Return a stream of pickles and then storages; torch reserves the sizes that the pickles declare."""
    stream = io.BytesIO(data)
    for _ in range(_PICKLES_BEFORE_DATA):
        _check_pickle(stream)
    for _ in ("data", "keys of the storages"):
        _check_pickle(stream, largest=len(data))
    stream.seek(0)
    return stream


def _check_pickle(stream: BinaryIO, largest: int | None = None) -> None:
    """Refuse a pickle that makes more than tensors and plain values: it could make arrays of any size, for example."""
    known = set(_OPERATIONS.split())
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name not in known or (name == "GLOBAL" and argument not in _NAMES):
            raise ValueError(f"expected tensors and plain values, found {argument if name == 'GLOBAL' else name}")
        if largest is not None and isinstance(argument, int) and argument > largest:
            raise ValueError(f"it declares {argument} values, but has {largest} bytes")
