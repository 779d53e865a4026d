"""Open the store of a curated set, and check it before any sample is read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.core.errors import StoreError, explain
from synthpipe.core.records import STRATEGIES
from synthpipe.core.taxonomy import LOST
from synthpipe.curated.description import Description
from synthpipe.files.locations import Location, exists
from synthpipe.storage.nodes import METADATA, damaged
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import CURATED_ARRAYS
from synthpipe.storage.stores import CuratedStore

_COUNTED = 100_000  # missing objects
_ATTRIBUTES = {"classes", "background_color", "fingerprint", "patches", "glass", "groups", "source"}


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """Attributes and small arrays of a curated set, as `CuratedSet` describes them, and readers of its pixels."""

    description: Description
    groups: tuple[str, ...]
    source: Mapping[str, str]
    labels: NDArray[np.uint8]
    p_real: NDArray[np.float32]
    donor_groups: NDArray[np.int32]
    strategies: NDArray[np.uint8]
    origins: NDArray[np.int64]
    images: SampleReader
    masks: SampleReader


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
    if not store.names(CURATED_ARRAYS) >= CURATED_ARRAYS.keys() or not attributes.keys() >= _ATTRIBUTES:
        raise StoreError(f"{path}: is not a curated set; expected curated.zarr of a run")
    _check_complete(path, store)
    images = store.images()
    try:
        description = Description.from_json({**attributes, "size": images.shape[1:3]})
    except ValueError as error:
        raise damaged(path / METADATA, f"attributes.{explain(error)}") from error
    groups, everything = tuple(attributes["groups"]), slice(0, len(images))
    return OpenedStore(
        description=description,
        groups=groups,
        source=attributes["source"],
        labels=_read(store, "labels", 0, 1),
        p_real=store.scores(everything),
        donor_groups=_read(store, "donor_groups", -1, len(groups) - 1),
        strategies=_read(store, "origin_strategy", 0, len(STRATEGIES) - 1, LOST),
        origins=store.read("origin_index", everything),
        images=images,
        masks=store.masks(),
    )


def _check_complete(path: Location, store: CuratedStore) -> None:
    """Refuse a store that lacks objects, or whose arrays differ in length."""
    if missing := list(islice(store.missing_objects(), _COUNTED + 1)):
        count = f"more than {_COUNTED}" if len(missing) > _COUNTED else len(missing)
        raise StoreError(
            f"{path}: is not complete: {count} objects are missing, for example {missing[0]}; give the command that "
            "wrote it again, or copy the whole store again"
        )
    count = store.length("image")
    for name in CURATED_ARRAYS:
        if store.length(name) != count:
            found = f"{name} has {store.length(name)} samples, image has {count}"
            raise damaged(path / METADATA, f"{found}; expected one length in all arrays")


def _read(store: CuratedStore, name: str, least: int, most: int, other: int | None = None) -> NDArray[Any]:
    """Read a small array; values from `least` to `most`, and `other`, are allowed."""
    values = store.read(name, slice(0, store.length(name)))
    wrong = ((values < least) | (values > most)) & (values != other)
    for index in np.argwhere(wrong)[:1]:
        found = f"sample {index[0]} has the value {values[tuple(index)]}"
        raise damaged(f"{store.path}/{name}", f"{found}; expected {least} to {most}")
    return values
