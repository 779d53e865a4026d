"""Checkpoints of format version 1: archives of ``torch.save``, whose members have only a CRC-32 each."""

from __future__ import annotations

import io
import pickletools  # nosec B403 # it lists operations, and runs none
import zipfile
from typing import Any

import torch

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
_OPERATIONS = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE GLOBAL REDUCE BINPERSID "
    "EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT "
    "BINGET LONG_BINGET"
)


def read(data: bytes) -> Any:
    """Return what ``torch.save`` wrote, tensors on the CPU.

    Every byte that counts is compared with its CRC-32. Only tensors and plain values are made, and these are no
    larger than the file, unless they repeat its bytes.

    Raises
    ------
    ValueError
        The archive is damaged, or holds what a checkpoint does not.
    """
    checked = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(checked, "w") as copy:
            members = archive.infolist()
            names = {member.filename for member in members}
            size = sum(member.file_size for member in members)
            if size > len(data) or len(names) < len(members) or any(member.compress_type for member in members):
                raise ValueError("its members are compressed, or overlap")
            for member in members:
                content = archive.read(member)  # which checks the CRC-32
                if member.filename.endswith("data.pkl"):
                    _check_pickle(content)
                copy.writestr(member.filename, content)
        checked.seek(0)  # torch reads what was checked, and not another archive that the same bytes may also be
        return torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickletools and torch fail in ways of their own
        reason = str(error).partition("\n")[0][:160]
        raise ValueError(reason or type(error).__name__) from error


def _check_pickle(content: bytes) -> None:
    """Refuse what asks torch for more than tensors and plain values: it would make arrays of any size, for example."""
    known = set(_OPERATIONS.split())
    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        if name not in known or (name == "GLOBAL" and argument not in _NAMES):
            raise ValueError(f"expected tensors and plain values, found {argument if name == 'GLOBAL' else name}")
