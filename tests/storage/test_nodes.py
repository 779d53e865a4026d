"""What a store may declare: metadata that a stranger forged is refused in a line that names the file and the value."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from synthpipe.config.fields import MOST
from synthpipe.config.pipeline import StoreSection
from synthpipe.core.errors import StoreError
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.storage import nodes
from synthpipe.storage.nodes import METADATA, taxonomy_of
from synthpipe.storage.schema import (
    ARRAYS,
    array,
    arrays_of,
    create_group,
    ensure_arrays,
    groups_of,
    missing_objects,
    open_group,
    others_of,
)
from tests.storage.test_shards import SHARD, group_of, samples, write

CLASSES = Taxonomy(tuple(TissueClass(name, (1, 2, 3)) for name in "abc")).to_json()
BIG = 1 << 63

Changes = dict[str, Any]
FORGED: dict[str, tuple[Changes, str]] = {
    "shape.0.huge": ({"shape": [BIG, 6, 5]}, r"damaged: shape\.0 is 9223372036854775808; input should be less"),
    "shape.negative": ({"shape": [-1, 6, 5]}, r"shape\.0 is -1; input should be greater"),
    "shape.text": ({"shape": "x"}, r"shape is 'x'; input should be a valid list"),
    "shape.bool": ({"shape": [True, 6, 5]}, r"shape\.0 is True; input should be a valid integer"),
    "shape.fraction": ({"shape": [4.0, 6, 5]}, r"shape\.0 is 4\.0; input should be a valid integer"),
    "shape.missing": ({"shape": ...}, r"shape is missing"),
    "shape.short": ({"shape": [4, 6]}, "damaged"),
    "sample": ({"shape": [4, 6, 9]}, r"has shards and chunks"),
    "chunks": ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**12, 6, 5]}}}, "1000000000000"),
    "chunks.other": ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 3, 5]}}}, "damaged"),
    "grid": ({"chunk_grid": {"name": "rectangular", "configuration": {}}}, r"chunk_grid\.name is 'rectangular'"),
    "dtype": ({"data_type": "int64"}, r"has data type int64; expected uint8"),
    "dtype.unknown": ({"data_type": {"name": "struct", "configuration": {}}}, r"data_type is .*valid string"),
    "fill": ({"fill_value": 0}, r"has fill value 0; expected 255"),
    "fill.text": ({"fill_value": "NaN"}, "damaged"),
    "fill.large": ({"fill_value": 10**30}, "damaged"),
    "keys": ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}}, r"separator is '/'"),
    "codecs": ({"codecs": [{"name": "bytes"}]}, r"has shards and chunks|expected those that `synthpipe build` uses"),
    "codecs.none": ({"codecs": []}, r"codecs is \[\]"),
    "codecs.unknown": ({"codecs": [{"name": "pickle", "configuration": {}}]}, "damaged"),
    "names": ({"dimension_names": ["sample", "x", "y"]}, r"has dimensions \('sample', 'x', 'y'\); expected"),
    "format": ({"zarr_format": 2}, r"zarr_format is 2"),
    "node": ({"node_type": "file"}, r"node_type"),
    "extra": ({"must": "understand"}, "damaged"),
    "attributes": ({"attributes": [1]}, r"attributes is \[1\]"),
}
GROUPS: dict[str, tuple[Changes, str]] = {
    "colour": ({"classes": [{"name": "a", "color": [0, 0, 300]}]}, r"classes\.0\.color\.2 is 300; input"),
    "name": ({"classes": [{"name": 7, "color": [0, 0, 0]}]}, r"classes\.0\.name is 7; input should be a valid string"),
    "missing": ({"classes": [{"color": [0, 0, 0]}]}, r"classes\.0\.name is missing"),
    "none": ({"classes": []}, r"classes is "),
    "many": ({"classes": [{"name": "a", "color": [0, 0, 0]}] * 255}, r"classes is "),
    "ignored": ({"ignore_index": "3"}, r"ignore_index is '3'; expected 3"),
    "background": ({"background_index": 2}, r"background_index is 2; expected 3"),
    "lost": ({"lost_value": True}, r"lost_value is True; expected 255"),
    "slides": ({"groups": {"a": 1}}, r"groups is \{'a': 1\}; input should be a valid list"),
    "slide": ({"groups": [5]}, r"groups\.0 is 5"),
    "source": ({"source": {"patches": None}}, r"source\.patches is None"),
    "strategy": ({"strategy": "cut"}, r"strategy is 'cut'"),
    "fingerprint": ({"fingerprint": 3}, r"fingerprint is 3"),
    "version": ({"format_version": [1]}, r"format_version is \[1\], this synthpipe reads 1"),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    group = group_of(tmp_path, SHARD)
    group.attrs.put({"format_version": 1, **CLASSES})
    write(group, 0, samples(SHARD))
    return tmp_path


def forge(path: Path, changes: Changes, *keys: str) -> None:
    """Change values of a JSON file, below some keys; ``...`` removes one."""
    data = json.loads(path.read_text())
    target = data
    for key in keys:
        target = target[key]
    target.update(changes)
    for key in [key for key, value in changes.items() if value is ...]:
        del target[key]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("changes, message", FORGED.values(), ids=FORGED)
def test_an_array_of_another_kind_is_refused(store: Path, changes: Changes, message: str) -> None:
    forge(store / "mosaic" / "mask" / METADATA, changes)
    for ask in (arrays_of, lambda group: array(group, "mask")):
        with pytest.raises(StoreError, match=rf"mosaic/mask(/zarr\.json)?: .*({message})"):
            ask(open_group(store, "mosaic"))


@pytest.mark.parametrize("changes, message", GROUPS.values(), ids=GROUPS)
def test_a_group_that_says_something_else_of_itself_is_refused(store: Path, changes: Changes, message: str) -> None:
    forge(store / "mosaic" / METADATA, changes, "attributes")
    with pytest.raises(StoreError, match=rf"mosaic(/zarr\.json: damaged)?: (attributes\.)?{message}"):
        open_group(store, "mosaic")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 2000,
        b"[" * 200_000,
        b'{"attributes":' * 3000,
        b"null",
        b"3",
        b"[]",
        b"",
        b"\xff\xfe",
        b'{"a":' + b"9" * 5000,
    ],
    ids=["deep", "deeper", "objects", "null", "number", "list", "empty", "binary", "digits"],
)
def test_metadata_that_is_none_is_refused(store: Path, data: bytes) -> None:
    group = open_group(store, "mosaic")
    (store / "mosaic" / METADATA).write_bytes(data)
    with pytest.raises(StoreError, match=r"mosaic/zarr\.json: damaged: "):
        open_group(store, "mosaic")
    (store / "mosaic" / "mask" / METADATA).write_bytes(data)
    with pytest.raises(StoreError, match=r"mosaic/mask/zarr\.json: damaged: "):
        arrays_of(group)


def test_metadata_is_read_with_a_bound_and_never_waited_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store / "mosaic" / METADATA
    monkeypatch.setattr(nodes, "MOST_METADATA", 100)
    with pytest.raises(StoreError, match=r"zarr\.json: damaged: has \d+ bytes, expected at most 100"):
        open_group(store, "mosaic")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"zarr\.json: damaged: is a named pipe, expected a file"):
        open_group(store, "mosaic")


def test_consolidated_metadata_is_not_used(store: Path) -> None:
    data = json.loads((store / "mosaic" / METADATA).read_text())
    other = json.loads((store / "mosaic" / "mask" / METADATA).read_text()) | {"shape": [BIG]}
    data["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {"mask": other, "x": 5}}
    (store / "mosaic" / METADATA).write_text(json.dumps(data))
    group = open_group(store, "mosaic")
    assert array(group, "mask").shape == (SHARD, 6, 5) and not list(missing_objects(group))


def test_arrays_of_a_group_fit_together(store: Path) -> None:
    created = create_group(store, "bezier", {"format_version": 1, **CLASSES})
    sizes = {"sample": 4, "y": 6, "x": 5, "channel": 3, "class_or_background": 4, "donor_use": 2}
    ensure_arrays(created, {"mask": ARRAYS["mask"]}, sizes, StoreSection(shard=4))
    ensure_arrays(created, {"image": ARRAYS["image"]}, sizes | {"y": 7}, StoreSection(shard=4))
    with pytest.raises(StoreError, match=r"bezier/mask/zarr\.json: damaged: has 6 y; expected 7, like the array image"):
        arrays_of(created)


def test_arrays_have_the_classes_of_their_group(store: Path) -> None:
    data = json.loads((store / "mosaic" / METADATA).read_text())["attributes"]
    forge(store / "mosaic" / METADATA, {"classes": data["classes"][:2]}, "attributes")
    with pytest.raises(StoreError, match=r"class_pixels/zarr\.json: damaged: has sample shape \(4,\); expected \(3,\)"):
        array(open_group(store, "mosaic"), "class_pixels")


def test_what_else_lies_there_is_passed_over(store: Path) -> None:
    (store / "mosaic" / "is_train").mkdir()
    (store / "mosaic" / "is_train" / METADATA).write_text("[" * 5000)
    (store / "notes.txt").write_text("mine")
    (store / "loop").symlink_to(store)
    group = open_group(store, "mosaic")
    assert "is_train" not in arrays_of(group) and others_of(group) == ["is_train"]
    root = create_group(store, "", {"format_version": 1})
    assert groups_of(root) == ["mosaic"] and others_of(root) == ["loop", "notes.txt"]


def test_a_length_that_nothing_could_hold_costs_nothing(store: Path) -> None:
    forge(store / "mosaic" / "recipe" / METADATA, {"shape": [MOST]})
    names = missing_objects(open_group(store, "mosaic"))
    assert [next(names), next(names)] == ["recipe/c.1", "recipe/c.2"]


def test_classes_are_asked_for_by_name(tmp_path: Path) -> None:
    group_of(tmp_path, SHARD)
    with pytest.raises(StoreError, match=r"mosaic/zarr\.json: damaged: attributes\.classes is missing"):
        taxonomy_of(open_group(tmp_path, "mosaic"))


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    group = create_group(tmp_path, "", {"format_version": 1})
    sizes = {"sample": 4, "y": 20_000, "x": 20_000, "channel": 3}
    with pytest.raises(StoreError, match=r"chunks of 1200000000 bytes; expected at most \d+ and 1073741824"):
        ensure_arrays(group, {"image": ARRAYS["image"]}, sizes, StoreSection(shard=4))
