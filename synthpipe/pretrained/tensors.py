"""Tensors in a file, with what is said of them: safetensors, with a SHA-256 of all of it.

Such files may come from strangers or from damaged disks. Reading one runs no code and takes no more memory than a few
times its size.
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
"""The largest file of tensors that is read, in bytes: the weights and the optimizer of a very large network."""

KEY = "synthpipe"
"""Of the one entry of a file's metadata: the order of several is not fixed, and with it the file's SHA-256."""

_LARGEST_HEADER = 10 << 20
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of a parameter


def pack(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return a file of `tensors` and of JSON-ready `about`; the same content gives the same bytes."""
    copies = {
        name: tensors[name].detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name in sorted(tensors)
    }
    text = json.dumps(about, sort_keys=True)
    return safetensors.torch.save(copies, {KEY: f"{_digest(text, copies)} {text}"})


def unpack(data: bytes) -> tuple[str, dict[str, Tensor]]:
    """Return what `pack` packed, `about` as JSON text.

    Raises
    ------
    ValueError
        It is something else, or is damaged.
    """
    said, tensors = read_safetensors(data)
    digest, _, text = said.partition(" ")
    if digest != _digest(text, tensors):
        raise ValueError("its checksum is not that of its content")
    return text, tensors


def read_safetensors(data: bytes) -> tuple[str, dict[str, Tensor]]:
    """Return the text and the tensors of a safetensors file of synthpipe.

    Raises
    ------
    ValueError
        It is something else, or is damaged.
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
    """Whether a file begins as safetensors do: with 8 bytes of any length, and then a JSON object."""
    return data[8:9] == b"{"


def load_safetensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file.

    Raises
    ------
    ValueError
        It is something else, or is damaged.
    """
    length = int.from_bytes(data[:8], "little")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header has {length} bytes, expected at most {_LARGEST_HEADER}")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:  # the latter two: types that torch lacks
        raise ValueError(str(error)) from error


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    kinds = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)]
    digest = hashlib.sha256(json.dumps([text, kinds]).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors with values that are not finite.

    Raises
    ------
    ValueError
        It names the first of them.
    """
    for name, values in tensors.items():
        if not np.isfinite(_extremes(values)).all():
            raise ValueError(f"{name} has values that are not finite")


def check_like(tensors: Mapping[str, Any], expected: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuse tensors that cannot take the place of the `expected` ones, whose values do not count.

    Raises
    ------
    ValueError
        One is missing, is unknown, has another type or shape, or has values that are not finite.
    """
    for name in sorted(expected.keys() | tensors.keys()):
        wanted, found = expected.get(name), tensors.get(name)
        if found is None or wanted is None:
            raise ValueError(f"{prefix}{name} is {'missing' if found is None else 'unknown'}")
        if not isinstance(found, Tensor) or found.layout != torch.strided or found.device.type != "cpu":
            raise ValueError(f"{prefix}{name} is no plain tensor")
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise ValueError(f"{prefix}{name} is {_kind(found)}, expected {_kind(wanted)}")
        check_finite({f"{prefix}{name}": found})


def _extremes(tensor: Tensor) -> tuple[float, float]:
    """Return the least and the greatest value, NaN where one is."""
    values = tensor.detach().cpu().numpy()  # NumPy needs no memory and no threads for it
    return (values.min(), values.max()) if values.size else (0.0, 0.0)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def flat_moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of an Adam optimizer's ``state_dict`` by name; its settings are left out."""
    return {f"{index}/{name}": value for index, each in state["state"].items() for name, value in each.items()}


def adam_state(moments: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return an Adam optimizer's ``state`` from what `flat_moments` returned.

    Each moment lies in memory as its parameter does, which the last bits of a step may depend on.

    Raises
    ------
    ValueError
        The moments are not those of these parameters.
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
