"""Read and write tensors and text as safetensors files with a SHA-256 of their whole content.

A file may come from a stranger or from a damaged disk. Reading a file runs no code, and needs at most a few times the
file's size in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from synthpipe.core.strict_json import parse_json

LARGEST = 16 << 30
"""Largest size of a file of tensors, in bytes. It is enough for the weights and optimizer of a very large network."""

KEY = "synthpipe"
"""Key of a file's only metadata entry. With several entries, their order and the file's SHA-256 would vary."""

_LARGEST_HEADER = 10 << 20
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam stores for each parameter


def pack(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a file with `tensors`, and with `about` as JSON. Equal content gives equal bytes."""
    copies = {
        name: tensors[name].detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name in sorted(tensors)
    }
    text = json.dumps(about, sort_keys=True)
    return safetensors.torch.save(copies, {KEY: f"{_digest(text, copies)} {text}"})


def unpack(data: bytes) -> tuple[str, dict[str, Tensor]]:
    """Return the content of a file that `pack` made: `about` as JSON text, and the tensors.

    Raises
    ------
    ValueError
        The file is damaged, or `pack` did not make it.
    """
    said, tensors = read_safetensors(data)
    digest, _, text = said.partition(" ")
    if digest != _digest(text, tensors):
        raise ValueError("its checksum is wrong")
    return text, tensors


def read_safetensors(data: bytes) -> tuple[str, dict[str, Tensor]]:
    """Return the text and the tensors of a safetensors file that synthpipe wrote.

    Raises
    ------
    ValueError
        The file is damaged, or synthpipe did not write it.
    """
    try:
        tensors = load_safetensors(data)
        length = int.from_bytes(data[:8], "little")
        text = parse_json(data[8 : 8 + length])["__metadata__"][KEY]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"its header is not one that synthpipe writes ({' '.join(str(error).split())[:160]})"
        ) from error
    return str(text), tensors


def is_safetensors(data: bytes) -> bool:
    """Return whether a file starts like a safetensors file: 8 bytes for a length, then a JSON object."""
    return data[8:9] == b"{"


def load_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file.

    Raises
    ------
    ValueError
        The file is damaged, or is not a safetensors file.
    """
    length = int.from_bytes(data[:8], "little")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header has {length} bytes, expected at most {_LARGEST_HEADER}")
    try:
        return safetensors.torch.load(data)
    except (
        safetensors.SafetensorError,
        KeyError,
        TypeError,
    ) as error:  # the last two mean dtypes that torch does not have
        raise ValueError(str(error)) from error


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    kinds = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)]
    digest = hashlib.sha256(json.dumps([text, kinds]).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise an error if a tensor has values that are not finite.

    Raises
    ------
    ValueError
        A value is not finite. The message names the first tensor with such a value.
    """
    for name, values in tensors.items():
        if not np.isfinite(_extremes(values)).all():
            raise ValueError(f"{name} has values that are not finite")


def check_like(tensors: Mapping[str, Any], expected: Mapping[str, Tensor], prefix: str = "") -> None:
    """Check that `tensors` have the names, dtypes and shapes of `expected`, and only finite values.

    Raises
    ------
    ValueError
        A tensor is missing, is unknown, has another dtype or shape, or has values that are not finite. The message
        names the tensor, with `prefix` before its name.
    """
    for name in sorted(expected.keys() | tensors.keys()):
        wanted, found = expected.get(name), tensors.get(name)
        if found is None or wanted is None:
            raise ValueError(f"{prefix}{name} is {'missing' if found is None else 'unknown'}")
        if not isinstance(found, Tensor) or found.layout != torch.strided or found.device.type != "cpu":
            raise ValueError(f"{prefix}{name} is not a plain tensor on the CPU")
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise ValueError(f"{prefix}{name} is {_kind(found)}, expected {_kind(wanted)}")
        check_finite({f"{prefix}{name}": found})


def _extremes(tensor: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value of a tensor: NaN if a value is NaN, 0 if there are no values."""
    values = tensor.detach().cpu().numpy()  # NumPy finds the extremes without extra memory or threads
    return (values.min(), values.max()) if values.size else (0.0, 0.0)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def flat_moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flatten the tensors of an Adam optimizer's ``state_dict`` to a dict by name, without the optimizer's settings."""
    return {f"{index}/{name}": value for index, each in state["state"].items() for name, value in each.items()}


def adam_state(moments: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[int, dict[str, Tensor]]:
    """Rebuild an Adam optimizer's ``state`` from the result of `flat_moments`.

    Each moment gets the memory layout of its parameter, because the layout can change the last bits of a result.

    Raises
    ------
    ValueError
        The moments do not fit these parameters.
    """
    indices = [index for index in range(len(parameters)) if any(f"{index}/{name}" in moments for name in _MOMENTS)]
    step = torch.empty((), device="meta")
    expected = {
        f"{index}/{name}": step if name == "step" else parameters[index] for index in indices for name in _MOMENTS
    }
    check_like(moments, expected, "optimizer/")
    for name, value in moments.items():
        if not name.endswith("/exp_avg") and _extremes(value)[0] < 0:
            raise ValueError(f"optimizer/{name} has values below 0")
    laid = {
        name: value if not value.ndim else torch.empty_like(expected[name], device="cpu").copy_(value)
        for name, value in moments.items()
    }
    return {index: {name: laid[f"{index}/{name}"] for name in _MOMENTS} for index in indices}
