"""What is exported: the composites of a curated set by name, cut into parts that are written as wholes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthpipe.core.records import Image, Mask, Strategy
from synthpipe.curated import CuratedSet


@dataclass(frozen=True, slots=True)
class Entry:
    """All about a composite but its pixels.

    Attributes
    ----------
    position : int
        In the curated set, from 0.
    key : str
        Its name in all forms, unique in the set: strategy and index as in ``mosaic0000041``, of letters and digits
        alone; ``patch0000012`` of a real patch with a predicted mask.
    strategy : str or None
        None for a real patch.
    index : int
        Among the strategy's candidates; for a real patch, `position`.
    labels : tuple of int
        A digit a class, 1 where it occurs.
    p_real : float or None
        The filter's probability that it is a real patch; None where no filter was asked.
    groups : tuple of str
        The slides or patients that its donors come from, sorted.
    """

    position: int
    key: str
    strategy: Strategy | None
    index: int
    labels: tuple[int, ...]
    p_real: float | None
    groups: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what forms say of a composite beside its pixels, JSON-ready."""
        return {
            "groups": list(self.groups),
            "index": self.index,
            "labels": list(self.labels),
            "p_real": self.p_real,
            "strategy": self.strategy,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """A run of composites that is written, recorded and resumed as a whole; `of` is the number of parts in all."""

    number: int
    of: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A composite as it was read back from a form; what the form does not hold is None."""

    key: str
    image: Image
    mask: Mask
    labels: tuple[int, ...] | None
    about: Mapping[str, Any] | None = None


def entry(curated: CuratedSet, place: int) -> Entry:
    """Return all about a composite of a set but its pixels."""
    origin = curated.origin(place)
    strategy, index = origin or (None, place)
    score = float(curated.p_real[place])
    numbers = sorted({int(number) for number in curated.donor_groups[place] if number >= 0})
    return Entry(
        position=place,
        key=f"{strategy or 'patch'}{index:07}",
        strategy=strategy,
        index=index,
        labels=tuple(int(digit) for digit in curated.labels[place]),
        p_real=None if math.isnan(score) else score,
        groups=tuple(sorted(unicode(curated.groups[number]) for number in numbers)),
    )


def part_of(curated: CuratedSet, number: int, size: int) -> Part:
    """Return part `number` of a set that is cut into parts of `size` composites; the last may have fewer."""
    places = range(number * size, min((number + 1) * size, len(curated)))
    return Part(number, math.ceil(len(curated) / size), tuple(entry(curated, place) for place in places))


def unicode(name: str) -> str:
    """Return a name from a disk with what is no Unicode as an escape, since other forms than ours cannot hold it."""
    return name.encode("utf-8", "backslashreplace").decode()
