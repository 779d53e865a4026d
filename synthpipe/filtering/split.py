"""Split slides or patients into a group that trains the filter and a group that validates it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from synthpipe.core.errors import FilterError
from synthpipe.core.records import PatchRef

_STREAM = 3  # part of the random generator's key; no composite uses this value


def split_groups(patches: Sequence[PatchRef], train_share: float, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Split the groups of a catalog, which are slides or patients, into a training side and a validation side.

    No group is on both sides. If patches with several classes come from two or more groups, both sides get such
    patches; the same applies to the donors of each class. Apart from this rule, the split is random. The training side
    gets about `train_share` of the patches.

    Parameters
    ----------
    patches : sequence of PatchRef
        The catalog, in any order.
    train_share : float
        Wanted share of patches on the training side, between 0 and 1, both excluded.
    seed : int
        Seed of the pipeline.

    Returns
    -------
    tuple of two frozensets
        The groups for training, and the groups for validation.

    Raises
    ------
    FilterError
        There are no mixed patches, all mixed patches come from one group, or all donors have one class and
        come from one group.
    """
    kinds = _kinds(patches)
    if () not in kinds:
        raise FilterError(
            f"the filter needs real patches with several classes, but all {len(patches)} patches have one class; add "
            "patches that show several classes, or set filter.enabled: false"
        )
    for kind, groups in kinds.items():
        if len(groups) < 2 and (not kind or len(kinds) == 2):
            what = "single-class" if kind else "mixed-class"
            raise FilterError(
                f"all {what} patches come from one slide or patient ({next(iter(groups))!r}), but the filter needs "
                "different slides or patients for training and for validation; check patches.group_pattern, add "
                "slides, or set filter.enabled: false"
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
    """Return the groups with donors of each class, by class, and the groups with mixed patches under ``()``."""
    kinds: dict[tuple[int, ...], set[str]] = {}
    for patch in patches:
        kinds.setdefault(patch.classes if patch.single_class else (), set()).add(patch.group)
    return kinds


def _cover(order: Sequence[str], shared: Mapping[tuple[int, ...], set[str]], sizes: Mapping[str, int]) -> set[str]:
    """Choose a few small groups that have patches of every kind, so that the other groups have every kind, too."""
    chosen: set[str] = set()
    position = {group: number for number, group in enumerate(order)}
    for kind in sorted(shared, key=lambda kind: (len(shared[kind]), kind)):
        if chosen & shared[kind]:
            continue
        left = [groups - chosen for groups in shared.values()]
        last = {group for groups in left if len(groups) == 1 for group in groups}
        if possible := shared[kind] - last:
            chosen.add(min(possible, key=lambda group: (sizes[group], position[group])))
    return chosen
