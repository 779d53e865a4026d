"""The Zarr v3 schema of composites: arrays, shards, chunks and attributes.

The first dimension of every array is ``sample``, and all arrays have the same number of composites per shard. Images
and masks have one composite per chunk, so one small read gives a composite. In small arrays a chunk is a whole shard.
Each chunk has a checksum. The fill value of masks is `taxonomy.LOST`, so a missing chunk never reads as a tissue class.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import FsspecStore, LocalStore, StorePath

from synthpipe.config.pipeline import Codec, StoreSection
from synthpipe.core.errors import StoreError
from synthpipe.core.records import REASONS, STRATEGIES
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.files.locations import Location
from synthpipe.storage.chunks import ChunkCodec
from synthpipe.storage.nodes import METADATA, damaged, has_copies, open_node, taxonomy_of, where
from synthpipe.storage.shards import listing, missing_shards, shard_key, shard_size

FORMAT_VERSION = 1


Kind = Literal["image", "mask", "small"]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store: its dimensions after `first`, dtype and fill value.

    A chunk of images or masks is one sample; a chunk of a small array is a whole shard.
    """

    dimensions: tuple[str, ...]
    dtype: str
    fill_value: Any
    kind: Kind = "small"
    attributes: Mapping[str, Any] | None = None
    first: str = "sample"


_IMAGE = ArraySpec(("y", "x", "channel"), "uint8", 0, "image")
_MASK = ArraySpec(("y", "x"), "uint8", LOST, "mask")
_RECIPE = ArraySpec((), "str", "")
_P_REAL = ArraySpec((), "float32", float("nan"))

CANDIDATE_ARRAYS: Mapping[str, ArraySpec] = {
    "recipe": _RECIPE,
    "class_pixels": ArraySpec(("class_or_background",), "int32", -1),
    "donors": ArraySpec(("donor_use",), "int32", -1),
    "mask": _MASK,
    "image": _IMAGE,
}
"""The arrays of candidates, in the order of writing. A shard is complete when all arrays have stored it."""

SCORE_ARRAYS: Mapping[str, ArraySpec] = {"p_real": _P_REAL}

VERDICT_ARRAYS: Mapping[str, ArraySpec] = {
    "verdict": ArraySpec(
        (), "uint8", LOST, attributes={"flag_values": list(range(len(REASONS))), "flag_meanings": " ".join(REASONS)}
    )
}

CURATED_ARRAYS: Mapping[str, ArraySpec] = {
    "recipe": _RECIPE,
    "labels": ArraySpec(("class",), "uint8", LOST),
    "p_real": _P_REAL,
    "origin_strategy": ArraySpec(
        (),
        "uint8",
        LOST,
        attributes={"flag_values": list(range(len(STRATEGIES))), "flag_meanings": " ".join(STRATEGIES)},
    ),
    "origin_index": ArraySpec((), "int64", -1),
    "donor_groups": ArraySpec(("donor_use",), "int32", -1),
    "group_steps": ArraySpec(("byte", "donor_use"), "uint8", 0),
    "mask": _MASK,
    "image": _IMAGE,
}
"""All arrays of curated sets, in the order of writing. `written_arrays` returns the arrays that a set has.

A shard is complete when all these arrays have stored it.
"""

DONOR_ARRAYS: Mapping[str, ArraySpec] = {"pixels": ArraySpec(("pixel",), "uint32", 0, first="row")}
"""The packed pixels of donors, one donor after the other, in the group `DONORS` of a virtual curated set.

The pixels fill rows of equal length, because one row could be longer than the largest length of an array.
"""

ARRAYS: Mapping[str, ArraySpec] = {
    **CANDIDATE_ARRAYS,
    **SCORE_ARRAYS,
    **VERDICT_ARRAYS,
    **CURATED_ARRAYS,
    **DONOR_ARRAYS,
}
DONORS = "donors"
"""Name of the group that holds the donors of a virtual curated set. Candidates have an array of the same name."""
_GROUPS = (*STRATEGIES, DONORS)
_MOST_CHUNK = 1 << 30  # bytes
_MOST_SHARD = 1 << 24  # samples


def written_arrays(specs: Mapping[str, ArraySpec], pixels: str, recipes: bool) -> dict[str, ArraySpec]:
    """Return the arrays of `specs` that a store has, in order. `StoreSection` explains `pixels` and `recipes`."""
    left_out = {"image", "mask", "donor_groups"} if pixels == "virtual" else {"group_steps"}
    if not recipes:
        left_out.add("recipe")
    return {name: spec for name, spec in specs.items() if name not in left_out}


def zarr_store(path: Location, writable: bool = False) -> Store:
    """Return the Zarr store at `path`."""
    if isinstance(path, Path):
        return LocalStore(path, read_only=not writable)
    return FsspecStore.from_url(str(path), storage_options=dict(path.storage_options), read_only=not writable)


def create_group(path: Location | Store, name: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create or open group `name` of a store. Set its attributes, and remove consolidated metadata."""
    store = path if isinstance(path, Store) else zarr_store(path, writable=True)
    group = open_node(StorePath(store, name))
    if not isinstance(group, zarr.Group):
        return zarr.create_group(store, path=name or None, attributes=dict(attributes), zarr_format=3)
    if dict(group.attrs) != dict(attributes) or has_copies(group.store_path):
        group.attrs.put(dict(attributes))
    return group


def ensure_arrays(
    group: zarr.Group,
    specs: Mapping[str, ArraySpec],
    sizes: Mapping[str, int],
    store: StoreSection,
    **attributes: Mapping[str, Any],
) -> None:
    """Create the arrays of `specs`, and lengthen all arrays of the group to the same length.

    Written samples do not change. New samples have the fill value until they are written.

    Parameters
    ----------
    group : zarr.Group
        The group of the arrays.
    specs : mapping of str to ArraySpec
        The arrays by name.
    sizes : mapping of str to int
        The length of every dimension. A group that is already longer along ``sample`` keeps its length.
    store : StoreSection
        The number of composites in a shard, and the codecs of chunks.
    **attributes : mapping
        Further attributes of an array, by its name.

    Raises
    ------
    StoreError
        A shard or a chunk would be too large to be read.
    """
    present = arrays_of(group)
    length = max([sizes["sample"], *(array.shape[0] for array in present.values())])
    for array in present.values():
        if array.shape[0] < length:
            array.resize((length, *array.shape[1:]))
    for name, spec in specs.items():
        if name in present:
            continue
        shape = (length, *(sizes[dimension] for dimension in spec.dimensions))
        created = group.create_array(
            name,
            shape=shape,
            dtype=spec.dtype,
            chunks=(store.shard if spec.kind == "small" else 1, *shape[1:]),
            shards=None if spec.kind == "small" else (store.shard, *shape[1:]),
            fill_value=spec.fill_value,
            compressors=[*_compressors(spec, store), Crc32cCodec()],
            dimension_names=(spec.first, *spec.dimensions),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes={**(spec.attributes or {}), **attributes.get(name, {})},
        )
        _check_array(created, spec, None)  # refuse to write what cannot be read


def _compressors(spec: ArraySpec, store: StoreSection) -> list[BytesBytesCodec]:
    choices: dict[Kind, Codec] = {"image": store.image_codec, "mask": store.mask_codec, "small": "zstd"}
    codec = choices[spec.kind]
    if codec == "none":
        return []
    if codec == "blosc-lz4":
        # shuffling bits gathers the noise of an image; a mask has no noise, and shuffling would split its long rows of
        # equal values
        return [BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle=_SHUFFLES[spec.kind])]
    return [ZstdCodec(level=store.zstd_level)]


_SHUFFLES: Mapping[Kind, Literal["bitshuffle", "noshuffle"]] = {"image": "bitshuffle", "mask": "noshuffle"}


def missing_objects(group: zarr.Group, names: Collection[str] = ARRAYS) -> Iterator[str]:
    """Yield the path of each missing shard of the arrays `names`, relative to the group."""
    for name, each in arrays_of(group, names).items():
        yield from (f"{name}/{shard_key(each, shard)}" for shard in missing_shards(each))


def taxonomy_attributes(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the attributes that define the values of masks."""
    return {
        **taxonomy.to_json(),
        "background_index": taxonomy.background,
        "ignore_index": taxonomy.background,
        "lost_value": LOST,
    }


def open_group(path: Location, name: str = "", writable: bool = False) -> zarr.Group:
    """Open group `name` of the store at `path`, by default for reading only.

    Raises
    ------
    StoreError
        The group does not exist, or another version of synthpipe wrote it.
    """
    group = open_node(StorePath(zarr_store(path, writable), name))
    if not isinstance(group, zarr.Group):
        raise StoreError(f"{path / name}: no Zarr v3 group found; expected a group that `synthpipe build` wrote")
    version = group.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(f"{path / name}: format_version is {version}, this synthpipe reads {FORMAT_VERSION}")
    return group


def arrays_of(group: zarr.Group, names: Collection[str] = ARRAYS) -> dict[str, zarr.Array[Any]]:
    """Return the arrays of a group that synthpipe defines, without any other entries.

    Parameters
    ----------
    group : zarr.Group
        The group of the arrays.
    names : collection of str, optional
        The names to look for. An array with another name belongs to a user.

    Raises
    ------
    StoreError
        The metadata of an array is damaged, or two arrays differ in a common dimension.
    """
    # each array is looked up by name, since not every store can be listed
    found = {name: member for name in sorted(names) if isinstance(member := _member(group, name), zarr.Array)}
    sizes = dict[str, tuple[int, str]]()
    for name, each in found.items():
        measured = zip(
            ("composites per shard", *ARRAYS[name].dimensions), (shard_size(each), *each.shape[1:]), strict=True
        )
        for dimension, size in measured:
            expected, first = sizes.setdefault(dimension, (size, name))
            if size != expected:
                raise _refused(each, f"{size} {dimension}", f"{expected}, like the array {first}")
    return found


def groups_of(group: zarr.Group) -> list[str]:
    """Return the sorted names of the groups that synthpipe made inside a group."""
    return [name for name in sorted(_GROUPS) if isinstance(_member(group, name), zarr.Group)]


def others_of(group: zarr.Group) -> list[str]:
    """Return the sorted names of the entries in a group that synthpipe did not make."""
    return sorted(set(listing(group.store_path)) - {METADATA, *_GROUPS, *ARRAYS})


def _member(group: zarr.Group, name: str) -> zarr.Array[Any] | zarr.Group | None:
    """Return the array or subgroup `name` of a group, or None if neither exists."""
    found = open_node(group.store_path / name)
    if isinstance(found, zarr.Array) and name in ARRAYS:
        _check_array(found, ARRAYS[name], len(taxonomy_of(group)) if "classes" in group.attrs else None)
    return found


def _check_array(array: zarr.Array[Any], spec: ArraySpec, classes: int | None) -> None:
    """Refuse an array that differs from `spec` in any property except the length."""
    sample, size = array.shape[1:], shard_size(array)
    cut = (None, (size, *sample)) if spec.kind == "small" else ((size, *sample), (1, *sample))
    fill = np.asarray(spec.fill_value)
    expected_sizes = {"channel": 3} | (
        {} if classes is None else {"class": classes, "class_or_background": classes + 1}
    )
    wanted = tuple(expected_sizes.get(name, found) for name, found in zip(spec.dimensions, sample, strict=False))
    names = array.metadata.dimension_names  # type: ignore[union-attr]
    facts: tuple[tuple[str, Any, Any], ...] = (
        ("dimensions", names, (spec.first, *spec.dimensions)),
        ("data type", _dtype_name(array), spec.dtype),
        ("sample shape", sample, wanted),
        ("shards and chunks", (array.shards, array.chunks), cut),
        ("fill value", str(array.fill_value), str(fill.astype(spec.dtype)) if spec.dtype != "str" else spec.fill_value),
    )
    for what, found, expected in facts:
        if found != expected:
            raise _refused(array, f"{what} {found}", str(expected))
    codec = ChunkCodec.of(array)
    shape = (size, *sample) if spec.kind == "small" else sample
    largest = 0 if codec.text else math.prod(shape) * array.dtype.itemsize
    if size > _MOST_SHARD or largest > _MOST_CHUNK or 0 in sample:
        raise _refused(
            array,
            f"{size} composites per shard, and chunks of {largest} bytes",
            f"at most {_MOST_SHARD} and {_MOST_CHUNK}",
        )


def _dtype_name(array: zarr.Array[Any]) -> str:
    return "str" if array.dtype.kind in "TOU" else str(array.dtype)


def _refused(array: zarr.Array[Any], found: str, expected: str) -> StoreError:
    return damaged(f"{where(array.store_path)}/{METADATA}", f"has {found}; expected {expected}")


def has_array(group: zarr.Group, name: str) -> bool:
    """Return whether a group has an array `name`.

    Raises
    ------
    StoreError
        The metadata of the array is damaged.
    """
    return isinstance(_member(group, name), zarr.Array)


def array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return array `name` of a group.

    Raises
    ------
    StoreError
        The array does not exist, or its metadata is damaged.
    """
    found = _member(group, name)
    if not isinstance(found, zarr.Array):
        raise StoreError(
            f"{where(group.store_path)}: the group has no array {name!r}; it has {', '.join(sorted(arrays_of(group)))}"
        )
    return found
