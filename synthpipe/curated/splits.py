"""Split a set into parts that share no slide."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import ConfigError

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet

By = Literal["group", "sample"]
_MOST_DROPPED = 0.1  # share of a set that is dropped without a warning


@dataclass(frozen=True, slots=True, repr=False)
class Split(Mapping[str, "CuratedSet"]):
    """Parts of a set by their names: ``split["train"]`` is one of them.

    Attributes
    ----------
    parts : mapping
        The parts by name.
    groups : mapping of str to tuple
        Slides or patients of each part; empty for a split by sample.
    dropped : int
        Number of composites with donors of several parts, which are in no part.
    """

    parts: Mapping[str, CuratedSet]
    groups: Mapping[str, tuple[str, ...]]
    dropped: int

    def __getitem__(self, name: str) -> CuratedSet:
        if name not in self.parts:
            raise KeyError(f"no part {name!r}; the parts are {', '.join(self.parts)}")
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __repr__(self) -> str:
        """Return a text with the counts of samples in each part, and of dropped samples."""
        return (
            f"<Split {self._counts()}; dropped {self.dropped} of {self.dropped + sum(map(len, self.parts.values()))}>"
        )

    def _counts(self) -> str:
        counts = {name: part.counts() for name, part in self.parts.items()}
        return "; ".join(
            f"{name}: {' and '.join(f'{count} {strategy}' for strategy, count in found.items())}"
            for name, found in counts.items()
        )

    def warning(self, before: Mapping[str, int]) -> str:
        """Return a warning if more than a tenth of the set is dropped, or a part lacks a strategy; else an empty text.

        `before` has the number of samples of each strategy in the whole set.
        """
        total = sum(before.values())
        lacks = any(before.keys() - part.counts().keys() for part in self.parts.values())
        if not self.dropped or not (lacks or self.dropped > _MOST_DROPPED * total):
            return ""
        return (
            f"this split drops {self.dropped} of {total} samples, because their donors are in several parts. It keeps "
            f"{self._counts()}. To drop none, train on the whole set and validate on real images with masks"
        )


def split_set(curated: CuratedSet, fractions: Mapping[str, float], by: By, seed: int) -> Split:
    """Split a set into named parts.

    By ``group``, slides or patients are divided among the parts, and a composite is in the part of all its donors. So
    no slide is in two parts. Composites with donors of several parts are dropped; a composite of many donors is seldom
    in a small part. By ``sample``, nothing is dropped, but slides are in all parts.

    Parameters
    ----------
    curated : CuratedSet
        The set.
    fractions : mapping of str to float
        Fraction of the groups (or samples) in each part; the sum must be 1.
    by : {"group", "sample"}
        Whether groups or samples are divided.
    seed : int
        The same seed gives the same parts.

    Returns
    -------
    Split
        The parts by name, the groups of each, and the number of dropped composites.

    Warns
    -----
    UserWarning
        More than a tenth of the set is dropped, or a part lacks a strategy because of that.

    Raises
    ------
    ConfigError
        The fractions are not positive numbers with the sum 1, `by` is unknown, or a part would be empty.
    """
    used, numbers = np.unique(curated.donor_groups, return_inverse=True)
    used, numbers = used[used >= 0], numbers.reshape(curated.donor_groups.shape) - np.count_nonzero(used < 0)
    found = split_indices(numbers.astype(np.int32), len(used), fractions, by, seed)
    groups = {name: tuple(curated.groups[used[index]] for index in members) for name, members in found.groups.items()}
    split = Split({name: curated.subset(indices) for name, indices in found.parts.items()}, groups, found.dropped)
    if warning := split.warning(curated.counts()):
        warnings.warn(warning, stacklevel=3)
    return split


@dataclass(frozen=True, slots=True)
class SplitIndices:
    """The indices of the samples and of the groups in each part of a `Split`."""

    parts: Mapping[str, NDArray[np.int64]]
    groups: Mapping[str, tuple[int, ...]]
    dropped: int


def split_indices(
    donor_groups: NDArray[np.int32], groups: int, fractions: Mapping[str, float], by: By, seed: int
) -> SplitIndices:
    """Split samples by their `groups` groups or one by one; `donor_groups` (N, D) holds each sample's groups, then -1.

    Raises
    ------
    ConfigError
        The fractions are not positive numbers with the sum 1, `by` is unknown, or a part would be empty.
    """
    if not fractions or min(fractions.values()) <= 0 or not math.isclose(sum(fractions.values()), 1):
        raise ConfigError(f"fractions {dict(fractions)}: expected positive numbers that add up to 1")
    if by not in ("group", "sample"):
        raise ConfigError(f"by {by!r}: expected 'group' or 'sample'")
    rng = np.random.Generator(np.random.Philox(seed))
    count = len(donor_groups) if by == "sample" else groups
    if count < len(fractions):
        raise ConfigError(f"{count} {by}s cannot be split into {len(fractions)} parts; give fewer parts")
    side = _sides(count, list(fractions.values()))[np.argsort(rng.permutation(count))]
    if by == "sample":
        parts = {name: np.flatnonzero(side == number) for number, name in enumerate(fractions)}
        return SplitIndices(parts, dict.fromkeys(fractions, ()), 0)
    sides = np.where(donor_groups >= 0, side[donor_groups], -1)
    highest = sides.max(1)
    whole = ((sides == highest[:, None]) | (sides < 0)).all(1)
    parts = {name: np.flatnonzero(whole & (highest == number)) for number, name in enumerate(fractions)}
    members = {name: tuple(np.flatnonzero(side == number).tolist()) for number, name in enumerate(fractions)}
    for name, indices in parts.items():
        if not len(indices):
            raise ConfigError(
                f"part {name!r} is empty: no composite has all its donors in its {len(members[name])} of {groups} "
                "groups, because composites mix slides; give the part a larger fraction, build more composites or "
                "composites of fewer donors (bezier), try another seed, or split by 'sample'"
            )
    return SplitIndices(parts, members, int((~whole).sum()))


def _sides(count: int, fractions: list[float]) -> NDArray[np.int64]:
    """Return ascending part numbers, (count,), shared out by the fractions; every part gets at least one."""
    sizes = np.maximum(1, np.floor(np.array(fractions) * count + 1e-9).astype(int))
    while sizes.sum() != count:
        error = np.array(fractions) * count - sizes
        if sizes.sum() < count:
            sizes[np.argmax(error)] += 1
        else:
            sizes[np.argmin(np.where(sizes > 1, error, np.inf))] -= 1
    return np.repeat(np.arange(len(fractions)), sizes)
