"""Open the store of a curated set, and check it before any sample is read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import StoreError, explain
from synthpipe.core.records import STRATEGIES
from synthpipe.core.taxonomy import LOST
from synthpipe.curated.description import Description
from synthpipe.curated.pixels import Pixels, StoredPixels
from synthpipe.files.locations import Location, exists
from synthpipe.storage.donor_groups import read_donor_groups
from synthpipe.storage.donors import DonorStore
from synthpipe.storage.nodes import METADATA, damaged
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import CURATED_ARRAYS, DONORS
from synthpipe.storage.stores import CuratedStore

_COUNTED = 100_000  # missing objects
_ATTRIBUTES = {"classes", "background_color", "fingerprint", "patches", "glass", "groups", "source"}


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """The attributes, small arrays and pixels of an opened curated set; `CuratedSet` describes them."""

    description: Description
    groups: tuple[str, ...]
    source: Mapping[str, str]
    labels: NDArray[np.uint8]
    p_real: NDArray[np.float32]
    donor_groups: NDArray[np.int32]
    strategies: NDArray[np.uint8]
    origins: NDArray[np.int64]
    pixels: Pixels


def store_at(path: Location) -> Location:
    """Return the store of a curated set: `path` itself, or the curated set of a finished run at `path`.

    Raises
    ------
    StoreError
        `path` is a run that is not finished.
    """
    run = RunDirectory(path)
    if exists(path / METADATA) or not run.exists():
        return path
    if not run.journal().get("finished"):
        raise StoreError(
            f"{path}: this run is not finished, so it has no curated set yet; run its `synthpipe build` command again "
            f"(`synthpipe status {shlex.quote(str(path))}` shows its progress)"
        )
    return run.curated


def open_store(path: Location) -> OpenedStore:
    """Open the store of a curated set, and read all but its pixels.

    Raises
    ------
    StoreError
        The store is not a curated set, is incomplete, or is damaged.
    """
    store = CuratedStore.open(path)
    attributes = store.attributes
    if not store.names(CURATED_ARRAYS) >= store.written.keys() or not attributes.keys() >= _ATTRIBUTES:
        raise StoreError(f"{path}: is not a curated set; expected curated.zarr of a run")
    _check_complete(path, store)
    everything, origins = slice(0, store.length()), store.read("origin_index", slice(0, store.length()))
    strategies = _read(store, "origin_strategy", 0, len(STRATEGIES) - 1, None if store.virtual else LOST)
    pixels, size = _pixels(path, store, strategies, origins)
    try:
        description = Description.from_json({**attributes, "size": size})
    except ValueError as error:
        raise damaged(path / METADATA, f"attributes.{explain(error)}") from error
    groups = tuple(attributes["groups"])
    return OpenedStore(
        description=description,
        groups=groups,
        source=attributes["source"],
        labels=_read(store, "labels", 0, 1),
        p_real=store.scores(everything),
        donor_groups=_groups(store, everything, len(groups)),
        strategies=strategies,
        origins=origins,
        pixels=pixels,
    )


def _pixels(
    path: Location, store: CuratedStore, strategies: NDArray[np.uint8], origins: NDArray[np.int64]
) -> tuple[Pixels, tuple[int, ...]]:
    """Return the pixels of a set, and the height and width of its samples."""
    if not store.virtual:
        images = store.images()
        return StoredPixels(images, store.masks()), images.shape[1:3]
    from synthpipe.curated.rendered import RenderedPixels, Renderer  # loads compiled kernels

    renderer = Renderer(path, store.attributes)
    unknown = set(np.unique(strategies)) - {STRATEGIES.index(each) for each in renderer.pipeline.strategies}
    if unknown or (origins < 0).any():
        raise damaged(
            path, "origin_strategy or origin_index names a composite that the pipeline of the set does not make"
        )
    return RenderedPixels(renderer, strategies, origins), renderer.pipeline.canvas


def _check_complete(path: Location, store: CuratedStore) -> None:
    """Refuse a store that lacks objects, or whose arrays differ in length."""
    if missing := list(islice(chain(store.missing_objects(), _missing_donors(path, store)), _COUNTED + 1)):
        count = f"more than {_COUNTED}" if len(missing) > _COUNTED else len(missing)
        raise StoreError(
            f"{path}: is not complete: {count} objects are missing, for example {missing[0]}; run the command that "
            "wrote it again, or copy the whole store again"
        )
    count = store.length()
    for name in store.written:
        if store.length(name) != count:
            found = f"{name} has {store.length(name)} samples, {store.last} has {count}"
            raise damaged(path / METADATA, f"{found}; expected one length in all arrays")


def _missing_donors(path: Location, store: CuratedStore) -> Iterator[str]:
    """Yield the path of each missing object of a virtual set's donors."""
    if store.virtual:
        donors = DonorStore.find(path, DONORS)
        names = [METADATA] if donors is None else donors.missing_objects()
        yield from (f"{DONORS}/{name}" for name in names)


def _groups(store: CuratedStore, everything: slice, count: int) -> NDArray[np.int32]:
    """Read the groups of donors; their numbers must be below `count`."""
    found = read_donor_groups(store, everything)
    _check(store, "donor_groups", found, -1, count - 1, None)
    return found


def _read(store: CuratedStore, name: str, least: int, most: int, other: int | None = None) -> NDArray[Any]:
    """Read a small array; values from `least` to `most`, and `other`, are allowed."""
    values = store.read(name, slice(0, store.length(name)))
    _check(store, name, values, least, most, other)
    return values


def _check(store: CuratedStore, name: str, values: NDArray[Any], least: int, most: int, other: int | None) -> None:
    wrong = ((values < least) | (values > most)) & (values != other)
    for index in np.argwhere(wrong)[:1]:
        found = f"sample {index[0]} has the value {values[tuple(index)]}"
        raise damaged(f"{store.path}/{name}", f"{found}; expected {least} to {most}")
