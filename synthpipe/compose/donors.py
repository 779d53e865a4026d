"""The donors of composites, found by id and drawn by class."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.kernels import count_other
from synthpipe.core.records import Donor, PackedPixels, pack
from synthpipe.core.resizing import fit_packed


class Donors:
    """Single-class patches, which are found by id and drawn by class.

    Donors are sorted by id, so a draw does not depend on the order in which patches were listed.

    Parameters
    ----------
    donors : iterable of Donor
        The patches.
    bank : (N,) uint32, optional
        Packed pixels (`records.pack`) of all patches, one patch after the other in the order of `donors`. By default
        they are packed from `donors`.
    on_canvas : (F, H, W) uint32, optional
        Packed pixels of the patches of other sizes than (H, W), resized to it, in the same order. Without it, `fitted`
        resizes a patch at each call.

    Attributes
    ----------
    bank : (N,) uint32
        Packed pixels of all patches.
    listed : tuple of Donor
        All donors of the bank, in the bank's order.
    labels : tuple of int
        The class indices that have donors.
    """

    def __init__(
        self, donors: Iterable[Donor], bank: PackedPixels | None = None, on_canvas: PackedPixels | None = None
    ) -> None:
        self.listed = listed = tuple(donors)
        self.bank = _read_only(_pack_all(listed) if bank is None else bank)
        self._numbers = {donor.id: number for number, donor in enumerate(listed)}
        sizes = [donor.image.shape[:2] for donor in listed]
        starts = np.cumsum([0, *(height * width for height, width in sizes)]).tolist()
        self._locations = {
            donor.id: (start, height, width)
            for donor, start, (height, width) in zip(listed, starts, sizes, strict=False)
        }
        self._fitted: dict[str, PackedPixels] = {}
        if on_canvas is not None:
            others = [donor.id for donor, size in zip(listed, sizes, strict=True) if size != on_canvas.shape[1:]]
            self._fitted = dict(zip(others, _read_only(on_canvas), strict=True))
        self._order(listed)

    def _order(self, donors: Sequence[Donor]) -> None:
        self._by_id = {donor.id: donor for donor in sorted(donors, key=lambda donor: donor.id)}
        self._all = tuple(self._by_id.values())
        by_class: dict[int, list[Donor]] = {}
        for donor in self._all:
            by_class.setdefault(donor.label, []).append(donor)
        self._by_class = {label: tuple(by_class[label]) for label in sorted(by_class)}
        self.labels = tuple(self._by_class)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Donor]:
        return iter(self._all)

    def __getitem__(self, patch: str) -> Donor:
        return self._by_id[patch]

    def within(self, groups: Collection[str]) -> Donors:
        """Return the donors of the given slides or patients."""
        return self.drawn_from([donor for donor in self._all if donor.group in groups])

    def drawn_from(self, donors: Sequence[Donor]) -> Donors:
        """Return a copy of these donors in which draws choose among `donors`.

        A chosen donor may be missing from the bank. Then `location` raises `KeyError` for its id.
        """
        chosen = copy.copy(self)
        chosen._order(donors)
        return chosen

    def number(self, patch: str) -> int:
        """Return the index of a donor in `listed`."""
        return self._numbers[patch]

    def location(self, patch: str) -> tuple[int, int, int]:
        """Return the index of a donor's first pixel in `bank`, and the donor's height and width."""
        return self._locations[patch]

    def packed(self, patch: str) -> PackedPixels:
        """Return a donor's packed pixels: (H, W) uint32, a view of the bank."""
        start, height, width = self._locations[patch]
        return self.bank[start : start + height * width].reshape(height, width)

    def fitted(self, patch: str, size: tuple[int, int]) -> PackedPixels:
        """Return a donor's packed pixels resized to `size`, (height, width): (H, W) uint32, read-only."""
        ready = self._fitted.get(patch)
        if ready is not None and ready.shape == size:
            return ready
        return fit_packed(self.packed(patch), size)

    def other_share(self, donor: Donor, y: int, x: int, size: tuple[int, int]) -> float:
        """Return the share of glass in a window of a donor (`geometry.window`)."""
        start, height, width = self._locations[donor.id]
        count: int = count_other(self.bank, start, (height, width), donor.label, y, x, size)
        return count / (size[0] * size[1])

    def draw(self, u: float, balance_classes: bool = False) -> Donor:
        """Turn a uniform number in [0, 1) into a donor.

        Every donor is equally likely. With `balance_classes`, every class is equally likely, and so is every donor of
        the class.
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


def _pack_all(donors: Sequence[Donor]) -> PackedPixels:
    parts = [pack(donor.image, donor.label if donor.mask is None else donor.mask).ravel() for donor in donors]
    return np.concatenate([np.empty(0, np.uint32), *parts])


def _read_only(pixels: PackedPixels) -> PackedPixels:
    """Return a read-only view of pixels; the kernels accept only read-only arrays."""
    view: NDArray[np.uint32] = pixels.view()
    view.setflags(write=False)
    return view
