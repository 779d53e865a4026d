"""Store, for each composite of a curated set, the groups (slides or patients) that its donors come from.

A set with pixels stores the numbers of the groups. A virtual set stores the differences between successive numbers,
because differences compress better. Each composite has the lowest byte of all its differences, then the next higher
byte. Most sets need only one byte for each difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.storage.store import Chosen, Store

_NUMBERS, _STEPS = "donor_groups", "group_steps"


def read_donor_groups(store: Store, chosen: Chosen) -> NDArray[np.int32]:
    """Return (N, U) int32. Each row has the ascending group numbers of one composite; free elements are -1."""
    if not store.virtual:
        return store.read(_NUMBERS, chosen)
    stored: NDArray[np.uint8] = store.read(_STEPS, chosen)
    steps = np.zeros((len(stored), stored.shape[2]), np.int32)
    for byte in range(stored.shape[1]):
        steps |= stored[:, byte].astype(np.int32) << 8 * byte
    return np.where(steps > 0, np.cumsum(steps, axis=1, dtype=np.int32) - 1, -1).astype(np.int32)


def donor_group_columns(store: Store, groups: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """Return the name and the samples of the array that stores `groups`.

    `groups` is an array like the result of `read_donor_groups`. In a virtual set, a difference of 0 means that no group
    follows, and the first difference is the first number plus 1.
    """
    if not store.virtual:
        return {_NUMBERS: groups}
    steps = np.where(groups >= 0, np.diff(groups, axis=1, prepend=-1), 0).astype("<u4")
    planes = steps.view(np.uint8).reshape(*groups.shape, 4)[..., : store.sizes(_STEPS)[0]]
    return {_STEPS: np.ascontiguousarray(planes.transpose(0, 2, 1))}


def bytes_of_step(groups: int) -> int:
    """Return the number of bytes that a difference needs in a set with `groups` groups."""
    return max(1, (groups.bit_length() + 7) // 8)
