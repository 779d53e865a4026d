"""The slides or patients of the donors of each composite of a curated set.

A set with pixels stores the numbers of the groups. A virtual set stores the differences between successive numbers, one
array of bytes after the other, because they compress better. Most sets need one byte for each donor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.storage.store import Chosen, Store

_NUMBERS, _STEPS = "donor_groups", "group_steps"


def read_donor_groups(store: Store, chosen: Chosen) -> NDArray[np.int32]:
    """Return (N, U) int32: in each row the ascending numbers of the groups of a composite's donors, then -1."""
    if not store.virtual:
        return store.read(_NUMBERS, chosen)
    stored: NDArray[np.uint8] = store.read(_STEPS, chosen)
    steps = np.zeros((len(stored), stored.shape[2]), np.int32)
    for byte in range(stored.shape[1]):
        steps |= stored[:, byte].astype(np.int32) << 8 * byte
    return np.where(steps > 0, np.cumsum(steps, axis=1, dtype=np.int32) - 1, -1).astype(np.int32)


def donor_group_columns(store: Store, groups: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """Return the name and the samples of the array that stores `groups`, the result of `read_donor_groups`.

    A step of 0 means that no group follows; the first step is the first number plus 1.
    """
    if not store.virtual:
        return {_NUMBERS: groups}
    steps = np.where(groups >= 0, np.diff(groups, axis=1, prepend=-1), 0).astype("<u4")
    planes = steps.view(np.uint8).reshape(*groups.shape, 4)[..., : store.sizes(_STEPS)[0]]
    return {_STEPS: np.ascontiguousarray(planes.transpose(0, 2, 1))}


def bytes_of_step(groups: int) -> int:
    """Return the number of bytes of each step in a set with `groups` groups."""
    return max(1, (groups.bit_length() + 7) // 8)
