"""The donors that composites are drawn from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from synthpipe.records import Donor


class Donors:
    """Single-class patches, found by id and drawn by class.

    The order is that of the ids, so that a draw does not depend on how the patches were listed.
    """

    def __init__(self, donors: Iterable[Donor]) -> None:
        self._by_id = {donor.id: donor for donor in sorted(donors, key=lambda donor: donor.id)}
        self._all = tuple(self._by_id.values())
        by_class: dict[int, list[Donor]] = {}
        for donor in self._all:
            by_class.setdefault(donor.label, []).append(donor)
        self._by_class = {label: tuple(by_class[label]) for label in sorted(by_class)}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Donor]:
        return iter(self._all)

    def __getitem__(self, patch: str) -> Donor:
        return self._by_id[patch]

    @property
    def labels(self) -> tuple[int, ...]:
        """The class indices that have donors."""
        return tuple(self._by_class)

    def within(self, groups: Collection[str]) -> Donors:
        """Return only the donors of the given slides or patients."""
        return Donors(donor for donor in self._all if donor.group in groups)

    def draw(self, u: float, balance_classes: bool = False) -> Donor:
        """Turn a uniform number in [0, 1) into a donor.

        Every donor is equally likely; with `balance_classes` every class is, and then every donor of it.
        """
        if not balance_classes:
            return _pick(self._all, u)
        scaled = u * len(self._by_class)
        label = self.labels[int(scaled)]
        return self.draw_of(label, scaled - int(scaled))

    def draw_of(self, label: int, u: float) -> Donor:
        """Turn a uniform number in [0, 1) into a donor of class `label`."""
        return _pick(self._by_class[label], u)


def _pick(donors: tuple[Donor, ...], u: float) -> Donor:
    return donors[int(u * len(donors))]
