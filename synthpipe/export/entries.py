"""Entries and parts of an export: an entry is one sample of a curated set, and a part is a range of entries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.core.records import Image, Mask, Strategy
from synthpipe.curated import CuratedSet


@dataclass(frozen=True, slots=True)
class Entry:
    """All facts about a sample except its pixels.

    Attributes
    ----------
    position : int
        Index in the curated set, from 0.
    key : str
        Name in all forms, unique in the set. It has only letters and digits: the strategy and the index, such as
        ``mosaic0000041``, or ``patch0000012`` for a real patch with a predicted mask.
    strategy : str or None
        Strategy of a composite; None for a real patch.
    index : int
        Index among the strategy's candidates; for a real patch, `position`.
    labels : tuple of int
        One digit for each class: 1 if the class occurs, else 0.
    p_real : float or None
        The filter's probability that the composite is a real patch; None if there is no filter.
    groups : tuple of str
        Slides or patients of the donors, sorted.
    """

    position: int
    key: str
    strategy: Strategy | None
    index: int
    labels: tuple[int, ...]
    p_real: float | None
    groups: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the facts that forms store beside the pixels, as values that JSON can store."""
        return {
            "groups": list(self.groups),
            "index": self.index,
            "labels": list(self.labels),
            "p_real": self.p_real,
            "strategy": self.strategy,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """A range of entries that is written, recorded and resumed as a whole. `of` is the number of all parts."""

    number: int
    of: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A sample that was read back from an export. Fields that the form does not store are None."""

    key: str
    image: Image
    mask: Mask
    labels: tuple[int, ...] | None
    about: Mapping[str, Any] | None = None


def entry(curated: CuratedSet, position: int) -> Entry:
    """Return the entry of the sample at `position` in a set."""
    origin = curated.origin(position)
    strategy, index = origin or (None, position)
    score = float(curated.p_real[position])
    numbers = sorted({int(number) for number in curated.donor_groups[position] if number >= 0})
    return Entry(
        position=position,
        key=f"{strategy or 'patch'}{index:07}",
        strategy=strategy,
        index=index,
        labels=tuple(int(digit) for digit in curated.labels[position]),
        p_real=None if math.isnan(score) else score,
        groups=tuple(sorted(unicode(curated.groups[number]) for number in numbers)),
    )


def part_of(curated: CuratedSet, number: int, size: int) -> Part:
    """Return part `number` of a set that is cut into parts of `size` samples. The last part may have fewer."""
    positions = range(number * size, min((number + 1) * size, len(curated)))
    return Part(number, math.ceil(len(curated) / size), tuple(entry(curated, position) for position in positions))


def unicode(name: str) -> str:
    """Escape the bytes of a name that are not Unicode. Other tools cannot store such bytes."""
    return name.encode("utf-8", "backslashreplace").decode()
