"""The donors of composites, found by id and drawn by class."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from synthpipe.compose.sampling import count_other
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
    drawn : tuple of Donor
        The donors that draws choose among, sorted by id.
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
        self._on_canvas: tuple[tuple[int, int], NDArray[np.int64], PackedPixels] | None = None
        self._given = on_canvas
        if on_canvas is not None:
            others = [donor.id for donor, size in zip(listed, sizes, strict=True) if size != on_canvas.shape[1:]]
            self._fitted = dict(zip(others, _read_only(on_canvas), strict=True))
        self._order(listed)

    def _order(self, donors: Sequence[Donor]) -> None:
        self.drawn = tuple(sorted(donors, key=lambda donor: donor.id))
        self._by_id = {donor.id: donor for donor in self.drawn}
        self.labels = tuple(sorted({donor.label for donor in self.drawn}))
        self._table: tuple[NDArray[np.int64], ...] | None = None
        self._listed: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.drawn)

    def __iter__(self) -> Iterator[Donor]:
        return iter(self.drawn)

    def __getitem__(self, patch: str) -> Donor:
        return self._by_id[patch]

    def within(self, groups: Collection[str]) -> Donors:
        """Return the donors of the given slides or patients."""
        return self.drawn_from([donor for donor in self.drawn if donor.group in groups])

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

    def table(self) -> tuple[NDArray[np.int64], ...]:
        """Return the donors as arrays for kernels, which must not be changed.

        Returns
        -------
        locations : (D, 4) int64
            For each donor of `drawn`: its start in the bank, or -1 without pixels; height, width and class.
        by_class : (D,) int64
            Indices in `drawn`, class by class in the order of `labels`.
        classes : (L + 1,) int64
            The first index in `by_class` of each class of `labels`, then D.
        glass : (D,) int64
            The number of pixels of another class; -1 before a kernel needs it and counts them.
        """
        if self._table is None:
            if not self.drawn:
                raise IndexError("there are no donors to draw from")
            start = [self._locations.get(donor.id, (-1,))[0] for donor in self.drawn]
            rows = [(*donor.image.shape[:2], donor.label) for donor in self.drawn]
            locations = np.column_stack([start, np.array(rows, np.int64)])
            by_class = np.argsort(locations[:, 3], kind="stable")
            classes = np.searchsorted(locations[by_class, 3], [*self.labels, self.labels[-1] + 1])
            self._table = locations, by_class, classes, np.full(len(rows), -1, np.int64)
        return self._table

    def numbers(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return indices in `listed` for indices in `drawn`.

        Raises
        ------
        KeyError
            The bank has no pixels of a donor.
        """
        if self._listed is None:
            self._listed = np.array([self._numbers.get(donor.id, -1) for donor in self.drawn])
        found = self._listed[drawn]
        if (absent := drawn[found < 0]).size:
            raise KeyError(self.drawn[absent[0]].id)
        return found

    def on_canvas(self, size: tuple[int, int]) -> tuple[NDArray[np.int64], PackedPixels]:
        """Return the donors resized to `size`, (height, width).

        Returns
        -------
        starts : (D,) int64
            For each donor of `listed`, the index of its first pixel in the bank followed by `fitted`.
        fitted : (F,) uint32
            Packed pixels of the donors of other sizes, resized, in the order of `listed`; read-only.
        """
        if self._on_canvas is None or self._on_canvas[0] != size:
            locations = np.array([self._locations[donor.id] for donor in self.listed], np.int64).reshape(-1, 3)
            others = (locations[:, 1:] != size).any(axis=1)
            starts = np.where(others, self.bank.size + (np.cumsum(others) - 1) * math.prod(size), locations[:, 0])
            self._on_canvas = size, starts, _read_only(self._resized(np.flatnonzero(others).tolist(), size))
        return self._on_canvas[1:]

    def _resized(self, numbers: Sequence[int], size: tuple[int, int]) -> PackedPixels:
        """Return the pixels of listed donors, resized, one after the other."""
        if self._given is not None and self._given.shape[1:] == size:
            return self._given.reshape(-1)
        parts = [fit_packed(self.packed(self.listed[number].id), size).ravel() for number in numbers]
        return np.concatenate([np.empty(0, np.uint32), *parts])


def _pack_all(donors: Sequence[Donor]) -> PackedPixels:
    parts = [pack(donor.image, donor.label if donor.mask is None else donor.mask).ravel() for donor in donors]
    return np.concatenate([np.empty(0, np.uint32), *parts])


def _read_only(pixels: PackedPixels) -> PackedPixels:
    """Return a read-only view of pixels; the kernels accept only read-only arrays."""
    view: NDArray[np.uint32] = pixels.view()
    view.setflags(write=False)
    return view
