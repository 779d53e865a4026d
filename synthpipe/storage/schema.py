"""The Zarr v3 schema of composites: which arrays there are, how they are cut, and what their attributes say.

Every array runs along ``sample`` first and is cut there into shards of the same number of composites. Images and masks
are sharded with one composite a chunk, so that a random one is one small read; the small arrays hold a shard's worth in
one chunk. Chunks are checksummed. Masks fill with `taxonomy.LOST`, so a lost chunk never reads as a tissue class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal

import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec
from zarr.storage import FsspecStore

from synthpipe.config import Codec, StoreSection
from synthpipe.errors import StoreError
from synthpipe.files import Location
from synthpipe.records import REASONS, STRATEGIES
from synthpipe.storage.shards import HOW_TO_MEND, complete_shards, listing, shard_key, shard_size, shards_of
from synthpipe.taxonomy import LOST, Taxonomy

FORMAT_VERSION = 1


Kind = Literal["image", "mask", "small"]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store: its dimensions after ``sample``, dtype and fill value.

    Of images and masks a chunk is one sample, of what is small a shard's worth.
    """

    dimensions: tuple[str, ...]
    dtype: str
    fill_value: Any
    kind: Kind = "small"
    attributes: Mapping[str, Any] | None = None


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
"""Written in this order; a shard is complete when all have it."""

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
    "mask": _MASK,
    "image": _IMAGE,
}
"""Written in this order; a shard is complete when all have it."""


_BROKEN = (JSONDecodeError, LookupError, TypeError)
"""What zarr raises of broken metadata; other ValueErrors mean that there is something else."""


def zarr_store(path: Location) -> Path | FsspecStore:
    """Return what zarr opens a store at `path` by."""
    if isinstance(path, Path):
        return path
    return FsspecStore.from_url(str(path), storage_options=dict(path.storage_options))


def create_group(place: Location | Store, name: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """Create group `name` in a store with its attributes, or open it and set them."""
    store = place if isinstance(place, Store) else zarr_store(place)
    try:
        group = zarr.open_group(store, path=name or None, mode="r+", zarr_format=3)
    except FileNotFoundError:
        return zarr.create_group(store, path=name or None, attributes=dict(attributes), zarr_format=3)
    except _BROKEN as error:
        raise _damaged(str(place), name, error) from error
    if dict(group.attrs) != dict(attributes):
        group.attrs.put(dict(attributes))
    return group


def ensure_arrays(
    group: zarr.Group,
    specs: Mapping[str, ArraySpec],
    sizes: Mapping[str, int],
    store: StoreSection,
    **attributes: Mapping[str, Any],
) -> None:
    """Create the arrays of `specs`, and lengthen what the group has: all its arrays have one length.

    Samples that are written stay as they are; new ones show the fill value until they are written.

    Parameters
    ----------
    group : zarr.Group
        Where they belong.
    specs : mapping of str to ArraySpec
        The arrays by name.
    sizes : mapping of str to int
        The length of every dimension; a group that is longer along ``sample`` stays so.
    store : StoreSection
        Composites a shard, and the codecs of chunks.
    **attributes : mapping
        More attributes of an array, under its name.
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
        group.create_array(
            name,
            shape=shape,
            dtype=spec.dtype,
            chunks=(store.shard if spec.kind == "small" else 1, *shape[1:]),
            shards=None if spec.kind == "small" else (store.shard, *shape[1:]),
            fill_value=spec.fill_value,
            compressors=[*_compressors(spec, store), Crc32cCodec()],
            dimension_names=("sample", *spec.dimensions),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes={**(spec.attributes or {}), **attributes.get(name, {})},
        )


def _compressors(spec: ArraySpec, store: StoreSection) -> list[BytesBytesCodec]:
    choices: dict[Kind, Codec] = {"image": store.image_codec, "mask": store.mask_codec, "small": "zstd"}
    codec = choices[spec.kind]
    if codec == "none":
        return []
    if codec == "blosc-lz4":
        # shuffled bits gather the noise of an image; a mask has none, and would lose its long runs
        return [BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle=_SHUFFLES[spec.kind])]
    return [ZstdCodec(level=store.zstd_level)]


_SHUFFLES: Mapping[Kind, BloscShuffle] = {"image": BloscShuffle.bitshuffle, "mask": BloscShuffle.noshuffle}


def complete_in_all(group: zarr.Group, specs: Mapping[str, ArraySpec]) -> frozenset[int]:
    """Return the numbers of the shards that are stored in every array of `specs`."""
    return frozenset.intersection(*(complete_shards(array(group, name)) for name in specs))


def missing_objects(group: zarr.Group) -> list[str]:
    """Return where in a group the shards of its arrays belong that are not stored."""
    return [
        f"{name}/{shard_key(each, shard)}"
        for name, each in arrays_of(group).items()
        for shard in sorted(set(shards_of(each.shape[0], shard_size(each))) - complete_shards(each))
    ]


def taxonomy_attributes(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the attributes that tell what mask values mean."""
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
        It is not there, or was written by another version of synthpipe.
    """
    try:
        group = zarr.open_group(zarr_store(path), path=name or None, mode="r+" if writable else "r", zarr_format=3)
    except _BROKEN as error:
        raise _damaged(str(path), name, error) from error
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"{path / name}: no Zarr v3 group; expected one that `synthpipe build` wrote") from error
    version = group.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(f"{path / name}: format_version is {version}, this synthpipe reads {FORMAT_VERSION}")
    return group


def arrays_of(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Return the arrays of a group; what lies beside them, or is just being made, is passed over."""
    return {name: member for name, member in _members(group) if isinstance(member, zarr.Array)}


def groups_of(group: zarr.Group) -> list[str]:
    """Return the names of the groups in a group, sorted."""
    return [name for name, member in _members(group) if isinstance(member, zarr.Group)]


def _members(group: zarr.Group) -> Iterator[tuple[str, Any]]:
    """Yield what is in a group by name, None for other files; zarr's own listing warns of what is half made."""
    for name in sorted(listing(group.store_path)):
        yield name, None if name == "zarr.json" else _member(group, name)


def _member(group: zarr.Group, name: str) -> Any:
    """Return an array or a group in a group, or None."""
    try:
        return group.get(name)
    except (ValueError, LookupError, TypeError) as error:  # zarr has no exception of its own for broken metadata
        raise _damaged(str(group.store_path), name, error) from error


def _damaged(where: str, name: str, error: Exception) -> StoreError:
    path = "/".join([where, *([name] if name else []), "zarr.json"])
    return StoreError(f"{path}: damaged: {error}; {HOW_TO_MEND}")


def has_array(group: zarr.Group, name: str) -> bool:
    """Whether there is an array `name` in a group.

    Raises
    ------
    StoreError
        Its metadata is damaged.
    """
    return isinstance(_member(group, name), zarr.Array)


def array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return array `name` of a group.

    Raises
    ------
    StoreError
        There is none, or its metadata is damaged.
    """
    found = _member(group, name)
    if not isinstance(found, zarr.Array):
        raise StoreError(f"{group.store_path}: no array {name!r}; found {', '.join(sorted(arrays_of(group)))}")
    return found
