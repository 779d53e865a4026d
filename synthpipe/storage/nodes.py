"""The groups and arrays of a store, opened as if a stranger had written it.

Every ``zarr.json`` is read and checked before zarr-python sees it, which believes what it reads. What one says of other
groups and arrays (consolidated metadata) is not used.
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
"""The key of copies of the metadata below a group, which `zarr.consolidate_metadata` adds; nothing here reads them."""
MOST_METADATA = 64 << 20
"""The largest size of a ``zarr.json`` in bytes; that of a curated set names all slides."""

HOW_TO_MEND = (
    "`synthpipe verify RUN --repair` makes it again where its run is finished; elsewhere remove this object and give "
    "the command that made it again, or restore it from a copy"
)
"""What to do about a damaged object, of a run or of a curated set that stands alone."""

_Size = Annotated[int, Field(strict=True, ge=0, le=MOST)]
_Positive = Annotated[int, Field(strict=True, ge=1, le=MOST)]


class _Named(BaseModel):
    """An extension point of Zarr."""

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
    """What the attributes of a group say; what is not here is not used, or is its writer's own."""

    pipeline: str = ""
    fingerprint: str = ""
    strategy: Strategy | None = None
    purpose: str = ""
    groups: list[str] = []
    source: dict[str, str] = {}


class _Group(BaseModel):
    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}


def open_node(place: StorePath) -> zarr.Array[Any] | zarr.Group | None:
    """Return the array or the group that lies in a place of a store; None where there is none.

    Raises
    ------
    StoreError
        Its metadata is no JSON, or declares what no store of synthpipe has.
    """
    path = f"{where(place)}/{METADATA}"
    try:
        data = _read(place)
        if data is None:
            return None
        fields = parse_json(data)
        is_group = isinstance(fields, dict) and fields.get("node_type") == "group"
        node = (_Group if is_group else _Array).model_validate(fields)
        if isinstance(node, _Group):
            _check_attributes(node.attributes)
            return zarr.Group(AsyncGroup.from_dict(place, node.model_dump()))
        # zarr has no exception of its own for what it cannot read
        return zarr.Array.from_dict(place, fields)
    except AccessError:
        raise
    except ValidationError as error:
        raise damaged(path, explain(error)) from error
    except Exception as error:
        raise damaged(path, getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def has_copies(place: StorePath) -> bool:
    """Whether a group holds copies of other metadata (consolidated metadata), which may be older than what is there."""
    data = _read(place)
    return data is not None and parse_json(data).get(COPIES) is not None


def damaged(path: object, what: str) -> StoreError:
    """Return the error that says what is wrong with a stored object."""
    return StoreError(f"{path}: damaged: {what}; {HOW_TO_MEND}")


def taxonomy_of(group: zarr.Group) -> Taxonomy:
    """Return the classes that the attributes of a group tell.

    Raises
    ------
    StoreError
        They tell none.
    """
    if "classes" not in group.attrs:
        raise damaged(f"{where(group.store_path)}/{METADATA}", "attributes.classes is missing")
    return Taxonomy.from_json(dict(group.attrs))


def location_of(place: StorePath) -> Location:
    """Return the folder, or the URL, that a place of a store is.

    Raises
    ------
    StoreError
        The store is of a kind that synthpipe does not write.
    """
    store = place.store
    if isinstance(store, LocalStore):
        return store.root / place.path
    if isinstance(store, FsspecStore):
        system = getattr(store.fs, "sync_fs", store.fs)  # file systems that are not asynchronous come wrapped
        options = {key: value for key, value in system.storage_options.items() if key != "asynchronous"}
        found: UPath = UPath(system.unstrip_protocol(f"{store.path}/{place.path}".rstrip("/")), **options)
        return found
    raise StoreError(f"{place}: is no store on a disk or at a URL")


def where(place: StorePath) -> str:
    """Name a place of a store for people."""
    return str(place if isinstance(place.store, MemoryStore) else location_of(place))


def _read(place: StorePath) -> bytes | None:
    if isinstance(place.store, MemoryStore):  # this process's own
        buffer = sync(place.store.get(f"{place.path}/{METADATA}".lstrip("/"), default_buffer_prototype()))
        return buffer.to_bytes() if buffer else None
    try:
        return read_regular(location_of(place) / METADATA, MOST_METADATA)
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
