"""Store the donors of a virtual curated set: a table of all donors, and the packed pixels of some donors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from zarr.storage import MemoryStore

from synthpipe.config.pipeline import StoreSection
from synthpipe.core.errors import StoreError, explain
from synthpipe.core.records import PackedPixels, PatchRef
from synthpipe.files.locations import Location
from synthpipe.storage import schema
from synthpipe.storage.nodes import HOW_TO_MEND, METADATA, damaged
from synthpipe.storage.schema import DONOR_ARRAYS, DONORS, FORMAT_VERSION
from synthpipe.storage.shard_writing import write_shard
from synthpipe.storage.store import Store

_ROW, _ROWS_IN_SHARD = 1 << 10, 1 << 10
PIXELS_IN_SHARD = _ROW * _ROWS_IN_SHARD
_PIXELS = "pixels"

_Side = Annotated[int, Field(ge=1, le=1 << 16)]


@dataclass(frozen=True, slots=True)
class StoredDonor:
    """One donor of the table: its id, class index, size in pixels, and its slide or patient."""

    id: str
    label: int
    height: int
    width: int
    group: str

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


class _Columns(BaseModel):
    """The columns of the table, as JSON."""

    model_config = ConfigDict(strict=True)

    id: list[str]
    label: list[Annotated[int, Field(ge=0, le=255)]]
    height: list[_Side]
    width: list[_Side]
    group: list[str]


@dataclass(frozen=True, slots=True)
class DonorTable:
    """All donors of a build. Sampling draws from all donors, but most sets need the pixels of only some donors.

    Attributes
    ----------
    donors : tuple of StoredDonor
        All donors. The donors with stored pixels come first.
    stored : int
        The number of donors whose pixels are stored.
    canvas : tuple of int or None
        The height and width of Bezier composites; None if the pipeline makes no Bezier composites. Donors of another
        size are stored a second time, resized to this canvas.
    """

    donors: tuple[StoredDonor, ...]
    stored: int
    canvas: tuple[int, int] | None

    @classmethod
    def of(cls, donors: Sequence[PatchRef], numbers: Collection[int], canvas: tuple[int, int] | None) -> DonorTable:
        """Return the table of a catalog's donors. `numbers` are the indices of the donors whose pixels are stored."""
        order = sorted(range(len(donors)), key=lambda number: (number not in numbers, number))
        records = (donors[number] for number in order)
        table = (StoredDonor(each.id, each.classes[0], each.height, each.width, each.group) for each in records)
        return cls(tuple(table), len(numbers), canvas)

    def parts(self) -> Iterator[tuple[StoredDonor, bool]]:
        """Yield (donor, False) for each stored donor, then (donor, True) for each copy that has the canvas's size."""
        stored = self.donors[: self.stored]
        yield from ((donor, False) for donor in stored)
        yield from ((donor, True) for donor in stored if self.canvas and donor.size != self.canvas)

    def pixels(self) -> int:
        """Return the number of all stored pixels."""
        return sum(math.prod(self.canvas or ()) if fitted else math.prod(each.size) for each, fitted in self.parts())

    def rows(self) -> int:
        """Return the number of rows that all stored pixels fill."""
        return -(-self.pixels() // _ROW)

    def to_json(self) -> dict[str, Any]:
        """Return the table, JSON-ready."""
        fields = _Columns.model_fields
        columns = {name: [getattr(donor, name) for donor in self.donors] for name in fields}
        return {"table": columns, "stored": self.stored, "canvas": list(self.canvas) if self.canvas else None}


class _Attributes(BaseModel):
    model_config = ConfigDict(strict=True)

    table: _Columns
    stored: Annotated[int, Field(ge=0)]
    canvas: Annotated[list[_Side], Field(min_length=2, max_length=2)] | None


class DonorStore(Store):
    """The group ``donors`` of a virtual curated set."""

    arrays = DONOR_ARRAYS

    @classmethod
    def create(cls, path: Location | None, table: DonorTable, store: StoreSection) -> DonorStore:
        """Create the group in the curated set at `path`, or in memory if `path` is None.

        An existing group must not hold other donors. `store` gives the level of compression.
        """
        attributes = {"format_version": FORMAT_VERSION, **table.to_json()}
        group = schema.create_group(MemoryStore() if path is None else path, DONORS, attributes)
        found = cls(group)
        settings = store.model_copy(update={"shard": _ROWS_IN_SHARD})
        found._extend(DONOR_ARRAYS, {"sample": table.rows(), "pixel": _ROW}, settings)
        return found

    @property
    def table(self) -> DonorTable:
        """The table of donors.

        Raises
        ------
        StoreError
            The attributes hold no valid table, or the table does not fit the stored pixels.
        """
        metadata = f"{self.path}/{METADATA}"
        try:
            found = _Attributes.model_validate({key: self.attributes.get(key) for key in _Attributes.model_fields})
        except ValidationError as error:
            raise damaged(metadata, f"attributes.{explain(error)}") from error
        columns = [getattr(found.table, name) for name in _Columns.model_fields]
        if len(set(map(len, columns))) != 1 or found.stored > len(found.table.id):
            raise damaged(
                metadata, "the columns of attributes.table differ in length, or have fewer rows than attributes.stored"
            )
        if len(set(found.table.id)) != len(found.table.id):
            raise damaged(metadata, "attributes.table names a donor twice")
        donors = tuple(StoredDonor(*row) for row in zip(*columns, strict=True))
        canvas = (found.canvas[0], found.canvas[1]) if found.canvas else None
        table = DonorTable(donors, found.stored, canvas)
        rows, expected = (self.length(), *self.sizes(_PIXELS)), (table.rows(), _ROW)
        if rows != expected:
            raise damaged(metadata, f"its donors have {table.pixels()} pixels; expected shape {expected}, found {rows}")
        return table

    def missing_objects(self) -> Iterator[str]:
        """Yield the path of each missing object, relative to the group."""
        yield from super().missing_objects() if self.has(_PIXELS) else [f"{_PIXELS}/{METADATA}"]

    def holds(self, table: DonorTable) -> bool:
        """Return whether the group has this table."""
        try:
            return self.table == table
        except StoreError:
            return False

    def remove(self) -> None:
        """Remove the pixels and then their metadata, so that the group can be created with other donors."""
        if self.has(_PIXELS):  # if the array is missing, no pixels are left
            for shard in self.complete_shards():
                self.object(_PIXELS, shard).unlink()
            (self.object(_PIXELS, 0).parent / METADATA).unlink()
            self._opened.clear()

    def write_pixels(self, shard: int, pixels: PackedPixels) -> None:
        """Store one shard of pixels. If there are too few pixels, fill the shard up with zeros."""
        whole = np.zeros(PIXELS_IN_SHARD, np.uint32)
        whole[: len(pixels)] = pixels
        write_shard(self._array(_PIXELS), shard, whole.reshape(-1, _ROW))

    def read_pixels(self) -> PackedPixels:
        """Return all pixels, (N,) uint32. Zeros follow the last pixel up to the end of the last row.

        Raises
        ------
        StoreError
            A shard is missing or damaged; the message names its object.
        """
        for missing in self.missing_objects():
            raise StoreError(f"{self.path}/{missing}: is missing; {HOW_TO_MEND}")
        return self.read(_PIXELS, slice(0, self.length())).reshape(-1)
