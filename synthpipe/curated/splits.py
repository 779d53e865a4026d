"""Cutting a set into parts that share no slide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import ConfigError

if TYPE_CHECKING:
    from synthpipe.curated.curated_set import CuratedSet

By = Literal["group", "sample"]
_MOST_DROPPED = 0.1  # of a set, without a warning


@dataclass(frozen=True, slots=True, repr=False)
class Split(Mapping[str, "CuratedSet"]):
    """A set that was cut into parts, by their names: ``split["train"]`` is one of them.

    Attributes
    ----------
    parts : mapping
        The parts by name.
    groups : mapping of str to tuple
        The slides or patients of each part; none where samples were shared out.
    dropped : int
        Composites with donors on several sides, which are in no part.
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
        """Say how many samples of each strategy every part has, and how many are dropped."""
        return f"<Split {self._told()}; dropped {self.dropped} of {self.dropped + sum(map(len, self.parts.values()))}>"

    def _told(self) -> str:
        counts = {name: part.counts() for name, part in self.parts.items()}
        return "; ".join(
            f"{name}: {' and '.join(f'{count} {strategy}' for strategy, count in found.items())}"
            for name, found in counts.items()
        )

    def loss(self, before: Mapping[str, int]) -> str:
        """Return a warning if over a tenth of a set is dropped, or a part loses a whole strategy; else an empty text.

        `before` has the set's samples by strategy.
        """
        total = sum(before.values())
        lacks = any(before.keys() - part.counts().keys() for part in self.parts.values())
        if not self.dropped or not (lacks or self.dropped > _MOST_DROPPED * total):
            return ""
        return (
            f"this split drops {self.dropped} of {total} samples, because their donors lie in several parts. It leaves "
            f"{self._told()}. To lose none, train on the whole set and validate on real images with masks"
        )


@dataclass(frozen=True, slots=True)
class SplitIndices:
    """A `Split` in numbers: places of samples, and of groups."""

    parts: Mapping[str, NDArray[np.int64]]
    groups: Mapping[str, tuple[int, ...]]
    dropped: int


def split_indices(
    donor_groups: NDArray[np.int32], groups: int, fractions: Mapping[str, float], by: By, seed: int
) -> SplitIndices:
    """Share out `groups` groups, or the samples; `donor_groups` (N, D) holds each sample's groups, then -1.

    Raises
    ------
    ConfigError
        The fractions are none, or a part would be empty.
    """
    if not fractions or min(fractions.values()) <= 0 or not math.isclose(sum(fractions.values()), 1):
        raise ConfigError(f"fractions {dict(fractions)}: expected positive numbers that add up to 1")
    if by not in ("group", "sample"):
        raise ConfigError(f"by {by!r}: expected 'group' or 'sample'")
    rng = np.random.Generator(np.random.Philox(seed))
    count = len(donor_groups) if by == "sample" else groups
    if count < len(fractions):
        raise ConfigError(f"{count} {by}s cannot be shared out among {len(fractions)} parts; give fewer parts")
    side = _sides(count, list(fractions.values()))[np.argsort(rng.permutation(count))]
    if by == "sample":
        parts = {name: np.flatnonzero(side == number) for number, name in enumerate(fractions)}
        return SplitIndices(parts, dict.fromkeys(fractions, ()), 0)
    sides = np.where(donor_groups >= 0, side[donor_groups], -1)
    highest = sides.max(1)
    whole = ((sides == highest[:, None]) | (sides < 0)).all(1)
    parts = {name: np.flatnonzero(whole & (highest == number)) for number, name in enumerate(fractions)}
    members = {name: tuple(np.flatnonzero(side == number).tolist()) for number, name in enumerate(fractions)}
    for name, places in parts.items():
        if not len(places):
            raise ConfigError(
                f"no composite has all its donors among the {len(members[name])} of {groups} groups of {name!r}: "
                "composites mix slides; give that part more, build more composites or of fewer donors (bezier), try "
                "another seed, or split by 'sample'"
            )
    return SplitIndices(parts, members, int((~whole).sum()))


def _sides(count: int, fractions: list[float]) -> NDArray[np.int64]:
    """Return (count,) part numbers, ascending, as near to the fractions as whole numbers are; every part has one."""
    sizes = np.maximum(1, np.floor(np.array(fractions) * count + 1e-9).astype(int))
    while sizes.sum() != count:
        error = np.array(fractions) * count - sizes
        if sizes.sum() < count:
            sizes[np.argmax(error)] += 1
        else:
            sizes[np.argmin(np.where(sizes > 1, error, np.inf))] -= 1
    return np.repeat(np.arange(len(fractions)), sizes)
