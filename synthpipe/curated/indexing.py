"""Indices of samples, checked as NumPy checks them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def one_index(index: object, length: int) -> int:
    """Return the index of one of `length` samples; negative indices count from the end.

    Raises
    ------
    IndexError
        There is no such sample.
    TypeError
        `index` is not an integer.
    """
    try:
        chosen = operator.index(index)  # type: ignore[arg-type]  # other types raise TypeError
    except TypeError:
        found = type(index).__name__
        raise TypeError(f"index is a {found}, expected an integer or a slice; subset takes several") from None
    if not -length <= chosen < length:
        raise _outside(chosen, length)
    return chosen


def many_indices(indices: Sequence[int] | NDArray[Any], length: int) -> NDArray[np.int64]:
    """Return several indices of `length` samples as an array; a mask of bool becomes the indices where it is true.

    Raises
    ------
    IndexError
        There is no such sample, a mask has another length, or `indices` are neither integers nor bool.
    """
    chosen = np.asarray(indices)
    if chosen.dtype == bool:
        if chosen.shape != (length,):
            raise IndexError(f"a mask has shape {chosen.shape}, expected ({length},): one value for each sample")
        return np.flatnonzero(chosen)
    if chosen.size and chosen.dtype.kind not in "iu":
        raise IndexError(f"indices are {chosen.dtype}, expected integers, or a mask of bool")
    if (outside := (chosen < -length) | (chosen >= length)).any():
        raise _outside(chosen[outside][0], length)
    return chosen.astype(np.int64)


def _outside(index: int, length: int) -> IndexError:
    return IndexError(f"no sample {index}; there are {length}, counted from 0")
