"""Read whole shards, and list the stored shards.

One task encodes all samples of a shard and stores the shard as one object, atomically and durably. No other task
touches the object. Composites are never rewritten. Verdicts are rewritten when curation settings change. A shard is
always full; samples beyond the array's length become visible when the array is lengthened. So the stored objects record
the progress of a run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import MemoryStore, StorePath

from synthpipe.core.errors import AccessError
from synthpipe.core.threads import in_threads
from synthpipe.files.locations import Location, translate_access_errors, translate_errors
from synthpipe.files.reading import read_regular
from synthpipe.storage.chunks import ChunkCodec, split_checksum
from synthpipe.storage.nodes import damaged, location_of

_OBJECTS_AT_ONCE = 16  # each may wait for the network


def read_range(array: zarr.Array[Any], start: int, stop: int) -> NDArray[Any]:
    """Return samples `start` to `stop` of a small array (each chunk is a whole shard).

    The result equals that of zarr-python: missing shards have the fill value, and the result ends where the array ends.
    This function checks stored objects, which zarr-python trusts.

    Raises
    ------
    StoreError
        A shard is damaged; the message names its object.
    """
    size, stop = shard_size(array), min(stop, array.shape[0])
    found = np.full((max(0, stop - start), *array.shape[1:]), array.fill_value, array.dtype)
    shards = range(start // size, -(-stop // size))
    for shard, samples in zip(shards, in_threads(partial(_read_shard, array), shards, _OBJECTS_AT_ONCE), strict=True):
        if samples is not None:
            first = max(start, shard * size)
            part = samples[first - shard * size : stop - shard * size]
            found[first - start : first - start + len(part)] = part
    return found


def _read_shard(array: zarr.Array[Any], shard: int) -> NDArray[Any] | None:
    """Return the samples of a shard that is one chunk, or None if it is not stored."""
    path, codec, shape = object_path(array, shard), ChunkCodec.of(array), (shard_size(array), *array.shape[1:])
    try:
        return codec.read(split_checksum(read_regular(path, codec.most_bytes(shape, array.dtype))), shape, array.dtype)
    except FileNotFoundError:
        return None
    except AccessError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise damaged(path, getattr(error, "strerror", None) or str(error)) from error


def read_small(array: zarr.Array[Any], indices: Sequence[int]) -> NDArray[Any]:
    """Return the samples at `indices` of a small array. Only one chunk at a time is in memory."""
    size, wanted = shard_size(array), np.asarray(indices, np.int64)
    is_text = array.dtype.kind in "TOU"  # zarr's kind of strings depends on its version
    found = np.empty((len(wanted), *array.shape[1:]), "O" if is_text else array.dtype)
    for chunk in np.unique(wanted // size).tolist():
        inside = np.flatnonzero(wanted // size == chunk)
        found[inside] = read_range(array, chunk * size, (chunk + 1) * size)[wanted[inside] % size]
    return found


def shard_size(array: zarr.Array[Any]) -> int:
    """Return the number of samples per shard of `array`, or per chunk if the array has no shards."""
    return int((array.shards or array.chunks)[0])


def complete_shards(array: zarr.Array[Any]) -> frozenset[int]:
    """Return the numbers of the stored shards of `array`."""
    return shard_numbers(array, listing(array.store_path))


def missing_shards(array: zarr.Array[Any]) -> Iterator[int]:
    """Yield the numbers of the missing shards of `array`, in order.

    The numbers are not collected in a list, because very many shards may be missing in a damaged array.
    """
    stored = complete_shards(array)
    return (shard for shard in shards_of(array.shape[0], shard_size(array)) if shard not in stored)


def stored_at(array: zarr.Array[Any]) -> dict[int, float]:
    """Return the time at which each stored shard of `array` was written, in seconds since 1970.

    An unknown time is 0. The times come from a listing; at a URL, one request lists a thousand objects.
    """
    folder = object_path(array, 0).parent
    if isinstance(folder, Path):
        times = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # a temporary file that was renamed meanwhile
                    times[entry.name] = entry.stat().st_mtime
    else:
        with translate_access_errors(folder):
            entries = folder.fs.ls(folder.path, detail=True)
        times = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: _appeared(entry) for entry in entries}
    numbers = shard_numbers(array, times)
    return {number: times[shard_key(array, number)] for number in numbers}


def _appeared(entry: Mapping[str, Any]) -> float:
    """Return the time of an object from an entry of a listing. The key depends on the file system of fsspec."""
    keys = ("mtime", "LastModified", "last_modified", "created")
    found = next((entry[key] for key in keys if entry.get(key)), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found.timestamp() if isinstance(found, datetime) else float(found)


def shard_numbers(array: zarr.Array[Any], names: Iterable[str]) -> frozenset[int]:
    """Return the numbers of the shards of `array` whose objects are in `names`."""
    pattern = re.compile(r"c\.(0|[1-9][0-9]*)" + r"\.0" * (array.ndim - 1))
    return frozenset(int(match[1]) for match in map(pattern.fullmatch, names) if match)


def listing(path: StorePath) -> list[str]:
    """Return the names of all entries of a group or array in a store."""

    async def names() -> list[str]:
        return [name async for name in path.store.list_dir(path.path)]

    if isinstance(path.store, MemoryStore):
        return sync(names())
    with translate_errors(location_of(path), "cannot be listed"):
        return sync(names())


def shards_of(length: int, size: int) -> range:
    """Return the numbers of the shards that contain the first `length` samples."""
    return range(-(-length // size))


def planned_in(shards: Iterable[int], length: int, size: int) -> int:
    """Return how many of the first `length` samples the given shards contain."""
    return sum(min(size, length - shard * size) for shard in shards)


def object_path(array: zarr.Array[Any], shard: int) -> Location:
    """Return the path of the object of a shard.

    Raises
    ------
    StoreError
        The array's store is neither on a disk nor at a URL.
    """
    return location_of(array.store_path) / shard_key(array, shard)


def shard_key(array: zarr.Array[Any], shard: int) -> str:
    """Return the name of a shard's object within its array."""
    key: str = array.metadata.encode_chunk_key((shard,) + (0,) * (array.ndim - 1))
    return key
