from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpipe.core.errors import FilterError
from synthpipe.core.records import PatchRef
from synthpipe.filtering.split import split_groups


def patch(number: int, group: str, *classes: int) -> PatchRef:
    return PatchRef(f"{number:04}.png", f"/{number}.png", "0" * 64, classes, 64, 64, group)


catalogs = st.lists(
    st.tuples(st.integers(0, 8), st.sets(st.integers(0, 2), min_size=1).map(sorted)), min_size=1, max_size=60
).map(lambda rows: [patch(number, f"slide{group}", *classes) for number, (group, classes) in enumerate(rows)])


@given(catalogs, st.floats(0.05, 0.95), st.integers(0, 2**64 - 1), st.randoms())
def test_no_slide_is_on_both_sides_and_every_kind_is(
    patches: list[PatchRef], share: float, seed: int, shuffler: random.Random
) -> None:
    kinds: dict[tuple[int, ...], set[str]] = {}
    for ref in patches:
        kinds.setdefault(ref.classes if ref.single_class else (), set()).add(ref.group)
    try:
        train, validation = split_groups(patches, share, seed)
    except FilterError:
        donors = [groups for kind, groups in kinds.items() if kind]
        assert len(kinds.get((), ())) < 2 or (len(donors) == 1 and len(donors[0]) < 2)
        return
    assert not train & validation
    assert train | validation == {ref.group for ref in patches}
    assert kinds[()] & train and kinds[()] & validation
    shuffled = list(patches)
    shuffler.shuffle(shuffled)
    assert split_groups(shuffled, share, seed) == (train, validation)


@given(catalogs, st.floats(0.05, 0.95), st.integers(0, 2**64 - 1))
def test_each_group_validates_that_fits_and_is_not_the_last_of_its_kind(
    patches: list[PatchRef], share: float, seed: int
) -> None:
    """The definition, word by word, with all sets and sums made anew for each group."""
    try:
        found = split_groups(patches, share, seed)
    except FilterError:
        return  # there is nothing to split: see below
    kinds: dict[tuple[int, ...], set[str]] = {}
    for ref in patches:
        kinds.setdefault(ref.classes if ref.single_class else (), set()).add(ref.group)
    shared = {kind: groups for kind, groups in kinds.items() if len(groups) > 1}
    order = sorted({ref.group for ref in patches})
    np.random.Generator(np.random.Philox(key=np.array([seed, 3], np.uint64))).shuffle(order)
    validation: set[str] = set()

    def patches_of(*groups: str) -> int:
        return sum(ref.group in groups for ref in patches)

    def spared(group: str) -> bool:
        return all(groups - validation - {group} for groups in shared.values())

    for kind in sorted(shared, key=lambda kind: (len(shared[kind]), kind)):  # the rarest first
        possible = [group for group in order if group in shared[kind] and spared(group)]
        if possible and not validation & shared[kind]:
            validation.add(min(possible, key=patches_of))
    for group in order:
        fits = patches_of(*validation) + patches_of(group) / 2 <= (1 - share) * len(patches)
        if group not in validation and fits and spared(group):
            validation.add(group)
    assert found == (frozenset(order) - validation, frozenset(validation))


def test_patches_that_are_slides_of_their_own_are_split_by_their_share() -> None:
    patches = [patch(number, f"slide{number}", *((0,), (1,), (0, 1))[number % 3]) for number in range(3000)]
    train, _ = split_groups(patches, 0.8, 0)
    assert 0.79 < len(train) / len(patches) < 0.81


def test_every_class_has_donors_on_both_sides() -> None:
    patches = [
        patch(number, f"slide{number % 20:02}", *classes) for number, classes in enumerate([(0,), (1,), (0, 1)] * 100)
    ]
    patches += [patch(900, "slide03", 2), patch(901, "slide11", 2)]
    for seed in range(20):
        for side in split_groups(patches, 0.8, seed):
            found = {ref.classes for ref in patches if ref.group in side}
            assert found == {(0,), (1,), (2,), (0, 1)}


def test_the_sides_hold_about_their_shares_of_the_patches() -> None:
    patches = [patch(number, f"slide{number % 50:02}", *((0,), (1,), (0, 1))[number % 3]) for number in range(1000)]
    shares = []
    for seed in range(20):
        train, _ = split_groups(patches, 0.8, seed)
        shares.append(sum(ref.group in train for ref in patches) / len(patches))
    assert all(0.75 < share < 0.85 for share in shares)
    assert len({split_groups(patches, 0.8, seed) for seed in range(20)}) == 20


def test_without_mixed_patches_the_error_says_what_to_do() -> None:
    patches = [patch(number, f"slide{number}", number % 2) for number in range(10)]
    with pytest.raises(
        FilterError, match=r"the filter needs real patches with several classes.*filter\.enabled: false"
    ):
        split_groups(patches, 0.8, 0)


def test_one_slide_cannot_be_split() -> None:
    patches = [patch(0, "only", 0), patch(1, "only", 1), patch(2, "only", 0, 1)]
    with pytest.raises(FilterError, match=r"one slide or patient \('only'\).*patches\.group_pattern"):
        split_groups(patches, 0.8, 0)
