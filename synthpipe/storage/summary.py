"""Describe a run or a store as plain data, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, ShardingCodec

from synthpipe.core.errors import StoreError
from synthpipe.core.records import STRATEGIES
from synthpipe.files.locations import Location, exists, translate_access_errors
from synthpipe.files.writing import PARTIAL
from synthpipe.storage.chunks import settings
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import arrays_of, groups_of, open_group, others_of
from synthpipe.storage.shards import complete_shards, object_path, shard_size, shards_of
from synthpipe.storage.store import Store
from synthpipe.storage.tallies import contents


def summarise(path: Location) -> dict[str, Any]:
    """Describe a run, a Zarr store or one of its groups, JSON-ready.

    Raises
    ------
    StoreError
        `path` is neither a run nor a store of synthpipe.
    """
    is_run, is_store = (exists(path / name) for name in ("run.json", "zarr.json"))
    found = "the folder has no run.json and no zarr.json" if exists(path) else "the path does not exist"
    if is_run:
        return _run(RunDirectory(path))
    if is_store:
        return {"kind": "store", "path": str(path), **_group(path, whole=True)}
    raise StoreError(f"{path}: {found}; expected a run directory or a Zarr store that `synthpipe build` wrote")


def human_bytes(count: float) -> str:
    """Return a number of bytes as text for people, such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _run(run: RunDirectory) -> dict[str, Any]:
    data, pipeline = run.read(), run.pipeline()
    build = run.journal()
    reports = {strategy: run.report(strategy) for strategy in STRATEGIES}
    filters = {strategy: load_report(path).fields() for strategy, path in reports.items() if exists(path)}
    finished = bool(build.get("finished"))
    stores = [each for each in (run.candidates, run.curated, run.training) if exists(each / "zarr.json")]
    return {
        "kind": "run",
        "path": str(run.path),
        "name": data["name"],
        "finished": finished,
        "fingerprint": data["fingerprint"],
        "catalog_digest": data["catalog_digest"],
        "versions": data["versions"],
        "stages": build["stages"],
        "ranked": pipeline.ranked,
        "threshold": pipeline.curation.threshold,
        "strategies": build["strategies"],
        "rounds": build.get("rounds", []),
        "remarks": build.get("remarks", []),
        "filters": filters,
        "stores": {store.name: _group(store, whole=not finished) for store in stores},
    }


def _group(path: Location, name: str = "", whole: bool = False) -> dict[str, Any]:
    """Describe a group. With `whole`, also read small arrays to describe the composites."""
    group = open_group(path, name)
    added = {"contents": found} if whole and (found := contents(Store(group))) else {}
    return {
        "attributes": {key: value for key, value in group.attrs.items() if key != "groups"},
        "arrays": {key: _array(array) for key, array in sorted(arrays_of(group).items())},
        "groups": {key: _group(path, f"{name}/{key}".strip("/"), whole) for key in groups_of(group)},
        "others": others_of(group),
        **added,
    }


def _array(array: zarr.Array[Any]) -> dict[str, Any]:
    wanted = len(shards_of(array.shape[0], shard_size(array)))
    names = array.metadata.dimension_names  # type: ignore[union-attr]
    codecs: Sequence[Codec] = array.metadata.codecs  # type: ignore[union-attr]
    inner = codecs[0].codecs if codecs and isinstance(codecs[0], ShardingCodec) else codecs
    return {
        "shape": list(array.shape),
        "dimensions": list(names or ()),
        "dtype": "string" if array.dtype.kind == "T" else str(array.dtype),
        "chunks": list(array.chunks),
        "shards": list(array.shards) if array.shards else None,
        "codecs": [_codec_name(codec) for codec in inner],
        "shards_complete": sum(shard < wanted for shard in complete_shards(array)),
        "shards_planned": wanted,
        "bytes_stored": _bytes_stored(array),
    }


def stored_bytes(group: Mapping[str, Any]) -> int:
    """Return the stored bytes of all arrays in the description of a group."""
    arrays = sum(array["bytes_stored"] for array in group["arrays"].values())
    return int(arrays) + sum(map(stored_bytes, group["groups"].values()))


def _bytes_stored(array: zarr.Array[Any]) -> int:
    """Return the size of an array's objects in bytes, without temporary files."""
    folder = object_path(array, 0).parent
    if not isinstance(folder, Path):
        with translate_access_errors(folder):
            return array.nbytes_stored()
    total = 0
    for file in folder.iterdir() if folder.is_dir() else ():
        if not file.name.endswith(PARTIAL):
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total


def _codec_name(codec: Codec) -> str:
    """Return the name of a codec in Zarr's metadata. For Blosc, add the name of the compressor."""
    name = str(codec.to_dict()["name"])
    return f"{name}-{settings(codec)['cname']}" if isinstance(codec, BloscCodec) else name
