"""Open the groups and arrays of a store without trusting its metadata.

zarr-python trusts metadata, so every ``zarr.json`` is checked first. Consolidated metadata is not used, because its
copies of other metadata may be out of date.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import zarr
from pydantic import BaseModel, Field, ValidationError
from upath import UPath
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import AsyncGroup
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, StorePath

from synthpipe.config.fields import MOST
from synthpipe.core.errors import AccessError, StoreError, explain
from synthpipe.core.records import Strategy
from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import LOST, Taxonomy
from synthpipe.files.locations import Location
from synthpipe.files.reading import read_regular

METADATA = "zarr.json"
COPIES = "consolidated_metadata"
"""The key of consolidated metadata, which `zarr.consolidate_metadata` adds and synthpipe does not read."""
MOST_METADATA = 64 << 20
"""The largest size of a ``zarr.json`` in bytes. The file of a curated set is large, because it lists all slides."""

HOW_TO_MEND = (
    "if the run is finished, repair it with `synthpipe verify RUN --repair`; otherwise restore this object from a "
    "copy, or remove it and repeat the command that wrote it"
)
"""Advice on a damaged object, in a run or in a separate curated set."""

_Size = Annotated[int, Field(strict=True, ge=0, le=MOST)]
_Positive = Annotated[int, Field(strict=True, ge=1, le=MOST)]


class _Named(BaseModel):
    """The name and the configuration of a codec in an array's metadata."""

    name: str
    configuration: dict[str, Any] = {}


class _Chunks(BaseModel):
    chunk_shape: list[_Positive]


class _Grid(BaseModel):
    name: Literal["regular"]
    configuration: _Chunks


class _Separator(BaseModel):
    separator: Literal["."]


class _Keys(BaseModel):
    name: Literal["default"]
    configuration: _Separator


class _Array(BaseModel):
    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Annotated[list[_Size], Field(min_length=1, max_length=4)]
    data_type: str
    chunk_grid: _Grid
    chunk_key_encoding: _Keys
    codecs: Annotated[list[_Named], Field(min_length=1, max_length=4)]
    dimension_names: list[str] | None = None
    attributes: dict[str, Any] = {}


class _Attributes(BaseModel):
    """Attributes that synthpipe reads from a group. A group may have further attributes."""

    pipeline: str = ""
    fingerprint: str = ""
    strategy: Strategy | None = None
    purpose: str = ""
    groups: list[str] = []
    source: dict[str, str] = {}
    pixels: Literal["stored", "virtual"] = "stored"
    recipes: bool = True
    sampler_version: int = 0
    settings: dict[str, Any] = {}
    curation: dict[str, Any] = {}


class _Group(BaseModel):
    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}


def open_node(path: StorePath) -> zarr.Array[Any] | zarr.Group | None:
    """Return the array or group at a path of a store, or None if neither exists.

    Raises
    ------
    StoreError
        The metadata is not JSON, or describes an array or group that synthpipe does not write.
    """
    file = f"{where(path)}/{METADATA}"
    try:
        data = _read(path)
        if data is None:
            return None
        fields = parse_json(data)
        is_group = isinstance(fields, dict) and fields.get("node_type") == "group"
        node = (_Group if is_group else _Array).model_validate(fields)
        if isinstance(node, _Group):
            _check_attributes(node.attributes)
            return zarr.Group(AsyncGroup.from_dict(path, node.model_dump()))
        # zarr has no exception of its own for metadata that it cannot read
        return zarr.Array.from_dict(path, fields)
    except AccessError:
        raise
    except ValidationError as error:
        raise damaged(file, explain(error)) from error
    except Exception as error:
        raise damaged(file, getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def has_copies(path: StorePath) -> bool:
    """Return whether a group has consolidated metadata, which may be out of date."""
    data = _read(path)
    return data is not None and parse_json(data).get(COPIES) is not None


def damaged(path: object, what: str) -> StoreError:
    """Return the error for a damaged object. `what` describes the damage."""
    return StoreError(f"{path}: damaged: {what}; {HOW_TO_MEND}")


def taxonomy_of(group: zarr.Group) -> Taxonomy:
    """Return the tissue classes that are stored in the attributes of a group.

    Raises
    ------
    StoreError
        The attributes have no classes.
    """
    if "classes" not in group.attrs:
        raise damaged(f"{where(group.store_path)}/{METADATA}", "attributes.classes is missing")
    return Taxonomy.from_json(dict(group.attrs))


def location_of(path: StorePath) -> Location:
    """Return the folder or URL that a path of a Zarr store refers to.

    Raises
    ------
    StoreError
        The store is neither on a disk nor at a URL.
    """
    store = path.store
    if isinstance(store, LocalStore):
        return store.root / path.path
    if isinstance(store, FsspecStore):
        system = getattr(store.fs, "sync_fs", store.fs)  # zarr wraps file systems that are not asynchronous
        options = {key: value for key, value in system.storage_options.items() if key != "asynchronous"}
        found: UPath = UPath(system.unstrip_protocol(f"{store.path}/{path.path}".rstrip("/")), **options)
        return found
    raise StoreError(f"{path}: the store is neither on a disk nor at a URL")


def where(path: StorePath) -> str:
    """Return a path of a store as text for messages."""
    return str(path if isinstance(path.store, MemoryStore) else location_of(path))


def _read(path: StorePath) -> bytes | None:
    if isinstance(path.store, MemoryStore):  # this process wrote it
        buffer = sync(path.store.get(f"{path.path}/{METADATA}".lstrip("/"), default_buffer_prototype()))
        return buffer.to_bytes() if buffer else None
    try:
        return read_regular(location_of(path) / METADATA, MOST_METADATA)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_attributes(attributes: dict[str, Any]) -> None:
    try:
        _Attributes.model_validate(attributes)
        if "classes" not in attributes:
            return
        background = Taxonomy.from_json(attributes).background
    except ValidationError as error:
        raise ValueError(f"attributes.{explain(error)}") from error
    expected = {"background_index": background, "ignore_index": background, "lost_value": LOST}
    for key, value in expected.items():
        found = attributes.get(key, value)
        if type(found) is not int or found != value:
            raise ValueError(f"attributes.{key} is {found!r}; expected {value}")
