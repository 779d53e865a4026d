"""Splitting slides or patients into those that train the filter and those that validate it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from synthpipe.core.errors import FilterError
from synthpipe.core.records import PatchRef

_STREAM = 3  # a word of the generator's key that no composite uses


def split_groups(patches: Sequence[PatchRef], train_share: float, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Split the groups of a catalog so that no slide or patient is on both sides.

    Both sides get mixed patches, and donors of each class, wherever these come from two groups or more. Apart from that
    the split is random, and its sides hold about `train_share` and ``1 - train_share`` of the patches.

    Parameters
    ----------
    patches : sequence of PatchRef
        The catalog, in any order.
    train_share : float
        Wanted share of the patches that train, in (0, 1).
    seed : int
        The pipeline's.

    Returns
    -------
    tuple of two frozensets
        The groups that train, and those that validate.

    Raises
    ------
    FilterError
        There are no mixed patches to stand for real ones, or all are of one group, or all donors are.
    """
    kinds = _kinds(patches)
    if () not in kinds:
        raise FilterError(
            f"there are no mixed-class patches to stand for real ones: all {len(patches)} patches have one class; "
            "add patches that show several classes, or set filter.enabled: false"
        )
    for kind, groups in kinds.items():
        if len(groups) < 2 and (not kind or len(kinds) == 2):
            what = "single-class" if kind else "mixed-class"
            raise FilterError(
                f"all {what} patches come from one slide or patient ({next(iter(groups))!r}), but the filter is "
                "validated on others than it is trained on; check patches.group_pattern, add slides, or set "
                "filter.enabled: false"
            )
    sizes = Counter(patch.group for patch in patches)
    order = sorted(sizes)
    np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64))).shuffle(order)
    shared = {kind: groups for kind, groups in kinds.items() if len(groups) >= 2}
    validation = _cover(order, shared, sizes)
    count, wanted = sum(sizes[group] for group in validation), (1 - train_share) * len(patches)
    left = {kind: len(groups - validation) for kind, groups in shared.items()}  # for training
    for group in order:
        if group in validation or count + sizes[group] / 2 > wanted:
            continue
        shown = [kind for kind, groups in shared.items() if group in groups]
        if all(left[kind] > 1 for kind in shown):
            validation.add(group)
            count += sizes[group]
            for kind in shown:
                left[kind] -= 1
    return frozenset(order) - validation, frozenset(validation)


def _kinds(patches: Sequence[PatchRef]) -> dict[tuple[int, ...], set[str]]:
    """Return the groups that have donors of each class, and under ``()`` those that have mixed patches."""
    kinds: dict[tuple[int, ...], set[str]] = {}
    for patch in patches:
        kinds.setdefault(patch.classes if patch.single_class else (), set()).add(patch.group)
    return kinds


def _cover(order: Sequence[str], shared: Mapping[tuple[int, ...], set[str]], sizes: Mapping[str, int]) -> set[str]:
    """Choose few small groups that have every kind of patch, and leave every kind to the others."""
    chosen: set[str] = set()
    place = {group: number for number, group in enumerate(order)}
    for kind in sorted(shared, key=lambda kind: (len(shared[kind]), kind)):
        if chosen & shared[kind]:
            continue
        left = [groups - chosen for groups in shared.values()]
        last = {group for groups in left if len(groups) == 1 for group in groups}
        if possible := shared[kind] - last:
            chosen.add(min(possible, key=lambda group: (sizes[group], place[group])))
    return chosen
