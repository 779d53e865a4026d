"""Read and write the composites of one Zarr group with typed methods, so other packages need no Zarr arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import StorePath

from synthpipe.config.pipeline import StoreSection
from synthpipe.core.errors import StoreError
from synthpipe.core.records import Recipe
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location, exists
from synthpipe.storage import schema, shards
from synthpipe.storage.integrity import StoredArray, metadata_of
from synthpipe.storage.nodes import METADATA, open_node, taxonomy_of, where
from synthpipe.storage.recipes import checked_recipe, unreadable
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import CANDIDATE_ARRAYS
from synthpipe.storage.shard_writing import ShardWriter, commit

Chosen = slice | Sequence[int]
"""Samples to read: a slice with start and stop, or indices in any order."""

_SHARDS_IN_BLOCK = 16


class Store:
    """The composites of a Zarr group. Arrays are opened when they are first used.

    Attributes
    ----------
    arrays : mapping of str to ArraySpec
        The arrays that a store of this kind has if it leaves out nothing.
    """

    arrays: ClassVar[Mapping[str, schema.ArraySpec]] = CANDIDATE_ARRAYS

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self._opened: dict[str, zarr.Array[Any]] = {}

    @classmethod
    def open(cls, path: Location, name: str = "", writable: bool = False) -> Self:
        """Open group `name` of the Zarr store at `path`.

        Raises
        ------
        StoreError
            The group does not exist, or another version of synthpipe wrote it.
        """
        return cls(schema.open_group(path, name, writable))

    @classmethod
    def find(cls, path: Location, name: str = "") -> Self | None:
        """Open group `name` of the Zarr store at `path`. Return None if the group does not exist."""
        return cls.open(path, name) if exists(path / name / METADATA) else None

    @property
    def path(self) -> str:
        """The group's path or URL."""
        return where(self._group.store_path)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the group."""
        return dict(self._group.attrs)

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes of the masks."""
        return taxonomy_of(self._group)

    @property
    def virtual(self) -> bool:
        """Whether the store has no images and masks."""
        return bool(self.attributes.get("pixels") == "virtual")

    @property
    def written(self) -> Mapping[str, schema.ArraySpec]:
        """The arrays that are written together, in order. A complete shard is stored in all these arrays."""
        attributes = self.attributes
        return schema.written_arrays(
            self.arrays, attributes.get("pixels", "stored"), bool(attributes.get("recipes", True))
        )

    @property
    def last(self) -> str:
        """The array of `written` that is written last."""
        return list(self.written)[-1]

    @property
    def shard(self) -> int:
        """The number of composites in a shard."""
        return shards.shard_size(self._array(self.last))

    def names(self, among: Collection[str] = schema.ARRAYS) -> frozenset[str]:
        """Return those names in `among` that are arrays of the group. Check the metadata of these arrays.

        Raises
        ------
        StoreError
            The metadata of an array is damaged, or two arrays differ in a common dimension.
        """
        return frozenset(schema.arrays_of(self._group, among))

    def groups(self) -> list[str]:
        """Return the sorted names of the groups that synthpipe made inside this group."""
        return schema.groups_of(self._group)

    def has(self, *names: str) -> bool:
        """Return whether the group has all these arrays."""
        return all(name in self._opened or schema.has_array(self._group, name) for name in names)

    def length(self, name: str | None = None) -> int:
        """Return the number of samples of an array, by default of the array that is written last."""
        return int(self._array(name or self.last).shape[0])

    def sizes(self, name: str) -> tuple[int, ...]:
        """Return the shape of one sample of an array."""
        return tuple(self._array(name).shape[1:])

    def complete_shards(self, *names: str) -> frozenset[int]:
        """Return the shards that all arrays in `names` have stored (default: all arrays in `written`)."""
        return frozenset.intersection(*(shards.complete_shards(self._array(name)) for name in names or self.written))

    def missing_shards(self, count: int, *names: str) -> list[int]:
        """Return the sorted shards of the first `count` composites that at least one array in `names` lacks."""
        return sorted(set(shards.shards_of(count, self.shard)) - self.complete_shards(*names))

    def missing_objects(self) -> Iterator[str]:
        """Yield the path of each missing object of the arrays in `written`, relative to the group."""
        return schema.missing_objects(self._group, self.written)

    def stored_at(self, name: str) -> dict[int, float]:
        """Return the time at which each stored shard of an array was written, in seconds since 1970."""
        return shards.stored_at(self._array(name))

    def blocks(self, *names: str, stop: int | None = None) -> Iterator[slice]:
        """Yield slices of samples that all arrays in `names` have stored. A slice has at most 16 shards.

        The slices end at `stop`, or by default at the end of the shortest array.
        """
        names = names or tuple(self.written)
        size, end = shards.shard_size(self._array(names[0])), min(map(self.length, names)) if stop is None else stop
        run: list[int] = []
        for shard in sorted(self.complete_shards(*names)):
            if shard * size >= end:
                break
            if run and (shard != run[-1] + 1 or len(run) == _SHARDS_IN_BLOCK):
                yield slice(run[0] * size, (run[-1] + 1) * size)
                run = []
            run.append(shard)
        if run:
            yield slice(run[0] * size, min((run[-1] + 1) * size, end))

    def object(self, name: str, shard: int) -> Location:
        """Return the path of the object that stores a shard of an array."""
        return shards.object_path(self._array(name), shard)

    @contextmanager
    def writing(self, shard: int, names: Iterable[str] | None = None) -> Iterator[Mapping[str, ShardWriter]]:
        """Yield a writer for each array in `names` (default: all arrays in `written`).

        The caller must finish every writer inside the block. If the block ends without an error, the shard becomes
        complete in all arrays.
        """
        with ExitStack() as stack:
            chosen = self.written if names is None else names
            writers = {name: stack.enter_context(ShardWriter(self._array(name), shard)) for name in chosen}
            yield writers
            commit(*writers.values())

    def images(self) -> SampleReader:
        """Return a reader of images, (H, W, 3) uint8 each."""
        return self.pixels("image")

    def masks(self) -> SampleReader:
        """Return a reader of masks, (H, W) uint8 each."""
        return self.pixels("mask")

    def pixels(self, name: str) -> SampleReader:
        """Return a reader of ``image`` or ``mask``."""
        return SampleReader(self._array(name))

    def recipes(self, chosen: Chosen) -> NDArray[np.object_]:
        """Return recipes as JSON text, (N,)."""
        return self.read("recipe", chosen)

    def recipe(self, index: int, canvas: tuple[int, ...]) -> Recipe:
        """Return the recipe of one composite. `canvas` is the height and width of the composite.

        Raises
        ------
        StoreError
            The recipe is not stored, or is damaged.
        """
        return self.checked_recipe(str(self.recipes([index])[0]), index, canvas)

    def checked_recipe(self, text: str, index: int, canvas: tuple[int, ...]) -> Recipe:
        """Return the recipe of one composite from its JSON text. `canvas` is the expected height and width.

        Raises
        ------
        StoreError
            The recipe is damaged.
        """
        return checked_recipe(self._group.store_path / "recipe", text, index, canvas)

    def scores(self, chosen: Chosen) -> NDArray[np.float32]:
        """Return the scores of the filter, (N,) float32; NaN for a composite without a score."""
        return self.read("p_real", chosen)

    def read(self, name: str, chosen: Chosen) -> NDArray[Any]:
        """Return samples of a small array: any array except ``image`` and ``mask``.

        A slice ends where the array ends. Missing samples have the fill value.
        """
        if isinstance(chosen, slice):
            return shards.read_range(self._array(name), chosen.start, chosen.stop)
        return shards.read_small(self._array(name), chosen)

    def blank(self, name: str, count: int) -> NDArray[Any]:
        """Return (count, ...) samples of an array, all with the fill value."""
        spec = schema.ARRAYS[name]
        return np.full((count, *self.sizes(name)), spec.fill_value, "O" if spec.dtype == "str" else spec.dtype)

    def unreadable_recipe(self, index: int, why: str) -> StoreError:
        """Return the error to raise for a recipe that cannot be read."""
        return unreadable(self._group.store_path / "recipe", index, why)

    def stored_arrays(self, folder: Location, names: Collection[str]) -> dict[str, StoredArray]:
        """Return the arrays `names` of this group as the expected arrays of the group at `folder`."""
        return {name: StoredArray(folder / name, self._array(name)) for name in names}

    def metadata(self, folder: Location, names: Collection[str]) -> dict[Location, bytes]:
        """Return the expected bytes of each ``zarr.json`` at `folder`: of the root, the group and its arrays."""
        own, nodes = self._group.store_path, dict[Location, Any]()
        if own.path:
            nodes[folder.parent] = open_node(StorePath(own.store, ""))
        nodes[folder] = self._group
        nodes |= {folder / name: self._array(name) for name in names}
        return {path / METADATA: metadata_of(node) for path, node in nodes.items()}

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._opened:
            self._opened[name] = schema.array(self._group, name)
        return self._opened[name]

    def _extend(
        self,
        specs: Mapping[str, schema.ArraySpec],
        sizes: Mapping[str, int],
        store: StoreSection,
        **attributes: Mapping[str, Any],
    ) -> None:
        """Create the arrays of `specs`, and lengthen all arrays to ``sizes["sample"]``."""
        schema.ensure_arrays(self._group, specs, sizes, store, **attributes)
        self._opened.clear()
