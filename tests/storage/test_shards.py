from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from synthpipe.config.pipeline import Codec, StoreSection
from synthpipe.core.errors import StoreError
from synthpipe.core.taxonomy import LOST
from synthpipe.files.locations import Location, parse_location
from synthpipe.storage import direct_io as objects
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import (
    CANDIDATE_ARRAYS,
    SCORE_ARRAYS,
    VERDICT_ARRAYS,
    array,
    arrays_of,
    create_group,
    ensure_arrays,
    groups_of,
    has_array,
    open_group,
)
from synthpipe.storage.shard_writing import ShardWriter, commit, holds, write_shard
from synthpipe.storage.shards import (
    complete_shards,
    object_path,
    read_range,
    shard_numbers,
    shard_size,
    shards_of,
    stored_at,
)

SHARD = 4
STORE = StoreSection(shard=SHARD)


def group_of(path: Location, length: int, store: StoreSection = STORE) -> zarr.Group:
    group = create_group(path, "mosaic", {"format_version": 1})
    sizes = {"sample": length, "y": 6, "x": 5, "channel": 3, "class_or_background": 4, "donor_use": 2}
    ensure_arrays(group, CANDIDATE_ARRAYS, sizes, store)
    return group


def samples(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8),
        "mask": rng.integers(0, 4, (count, 6, 5), dtype=np.uint8),
        "class_pixels": rng.integers(0, 99, (count, 4), dtype=np.int32),
        "donors": rng.integers(-1, 99, (count, 2), dtype=np.int32),
        "recipe": [f'{{"number":{number},"name":"\u00e9"}}' for number in range(count)],
    }


def write(group: zarr.Group, shard: int, data: dict[str, Any]) -> None:
    for name in CANDIDATE_ARRAYS:
        write_shard(array(group, name), shard, data[name][shard * SHARD : (shard + 1) * SHARD])


CODECS = [{}, *({f"{kind}_codec": codec} for kind in ("image", "mask") for codec in get_args(Codec))]


@pytest.mark.parametrize("codecs", CODECS, ids=str)
def test_zarr_tensorstore_and_xarray_read_what_was_written(tmp_path: Path, codecs: dict[str, Any]) -> None:
    data = samples(12)
    group = group_of(tmp_path / "s.zarr", 10, StoreSection(shard=SHARD, **codecs))
    for shard in (2, 0, 1):
        write(group, shard, data)
    read = open_group(tmp_path / "s.zarr", "mosaic")
    dataset = xarray.open_zarr(tmp_path / "s.zarr", group="mosaic", consolidated=False)
    expected_sizes = {"sample": 10, "y": 6, "x": 5, "channel": 3, "class_or_background": 4, "donor_use": 2}
    assert dict(dataset.sizes) == expected_sizes
    for name in CANDIDATE_ARRAYS:
        expected = np.array(data[name][:10])
        assert np.array_equal(np.asarray(array(read, name)[:]).astype(expected.dtype), expected)
        assert np.array_equal(dataset[name].values.astype(expected.dtype), expected)
        assert dataset[name].dtype.kind == array(read, name).dtype.kind
        if name != "recipe":  # tensorstore knows no strings
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "s.zarr/mosaic" / name)}}
            assert np.array_equal(tensorstore.open(spec).result().read().result(), expected)
        if name in ("image", "mask"):
            reader = SampleReader(array(read, name))
            assert len(reader) == 10 and np.array_equal(reader.read_many(range(10)), expected)


@pytest.mark.parametrize("codecs", CODECS, ids=str)
def test_what_is_written_is_what_zarr_would_write(tmp_path: Path, codecs: dict[str, Any]) -> None:
    """The same codecs with the same settings: nobody can tell our shards from zarr-python's own."""
    data = samples(SHARD)
    ours, theirs = (
        group_of(tmp_path / name, SHARD, StoreSection(shard=SHARD, **codecs)) for name in ("ours", "theirs")
    )
    write(ours, 0, data)
    for name in CANDIDATE_ARRAYS:
        array(theirs, name)[:] = np.array(data[name])
    for path in (tmp_path / "ours").rglob("c.*"):
        assert path.read_bytes() == (tmp_path / "theirs" / path.relative_to(tmp_path / "ours")).read_bytes()


def test_lengthening_shows_the_samples_that_waited_and_rewrites_nothing(tmp_path: Path) -> None:
    data = samples(12)
    write(group_of(tmp_path / "s.zarr", 6), 1, data)
    stored = (tmp_path / "s.zarr" / "mosaic" / "image" / "c.1.0.0.0").read_bytes()
    longer = group_of(tmp_path / "s.zarr", 11)
    assert array(longer, "image").shape[0] == 11
    assert np.array_equal(np.asarray(array(longer, "image")[4:8]), data["image"][4:8])
    assert (tmp_path / "s.zarr" / "mosaic" / "image" / "c.1.0.0.0").read_bytes() == stored
    assert array(group_of(tmp_path / "s.zarr", 3), "image").shape[0] == 11


@pytest.mark.parametrize("place", [None, "memory://small"])
def test_small_shards_are_written_at_once_and_compared(tmp_path: Path, place: str | None) -> None:
    data, path = samples(2 * SHARD), parse_location(place or tmp_path / "s.zarr")
    ours, theirs = group_of(path, 2 * SHARD), group_of(tmp_path / "theirs.zarr", 2 * SHARD)
    for name in ("recipe", "class_pixels", "donors"):
        small, first, second = array(ours, name), data[name][:SHARD], data[name][SHARD:]
        assert not holds(small, 1, second)
        write_shard(small, 1, second)
        with ShardWriter(array(theirs, name), 1) as writer:
            writer.write(second)
            writer.finish()
            commit(writer)
        stored = object_path(small, 1)
        assert stored.read_bytes() == object_path(array(theirs, name), 1).read_bytes()
        assert holds(small, 1, second) and not holds(small, 1, first) and not holds(small, 0, second)
        stored.write_bytes(stored.read_bytes()[:-1])
        assert not holds(small, 1, second)
        with pytest.raises(StoreError, match="shard 0: got 3 samples, expected 4"):
            write_shard(small, 0, first[:3])


def test_all_arrays_of_a_group_have_one_length(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 6)
    ensure_arrays(group, SCORE_ARRAYS, {"sample": 6}, STORE)
    write_shard(array(group, "p_real"), 0, np.ones(SHARD, np.float32))
    group_of(tmp_path / "s.zarr", 9)
    ensure_arrays(group, VERDICT_ARRAYS, {"sample": 5}, STORE)
    dataset = xarray.open_zarr(tmp_path / "s.zarr", group="mosaic", consolidated=False)
    assert dataset.sizes["sample"] == 9
    assert np.isnan(dataset.p_real.values[4:]).all() and (dataset.verdict.values == LOST).all()


def test_the_stored_shards_are_the_ledger(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 20)
    assert complete_shards(array(group, "image")) == frozenset()
    for shard in (0, 3):
        write(group, shard, samples(16))
    (tmp_path / "s.zarr" / "mosaic" / "image" / "c.1.0.0.6f1b.partial").touch()
    assert complete_shards(array(group, "image")) == {0, 3}
    assert shard_size(array(group, "image")) == shard_size(array(group, "recipe")) == SHARD
    assert list(shards_of(20, SHARD)) == list(range(5)) and list(shards_of(21, SHARD)) == list(range(6))


def test_what_is_half_made_is_no_part_of_a_group(tmp_path: Path) -> None:
    root = create_group(tmp_path / "s.zarr", "", {})
    group = group_of(tmp_path / "s.zarr", 6)
    for folder in (tmp_path / "s.zarr", tmp_path / "s.zarr" / "mosaic"):
        (folder / "zarr.6f1b.partial").touch()
        (folder / "begun").mkdir()
    assert groups_of(root) == ["mosaic"] and not arrays_of(root)
    assert set(arrays_of(group)) == set(CANDIDATE_ARRAYS) and not groups_of(group)


def test_what_is_renamed_while_it_is_listed_is_passed_over(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 8)
    write(group, 1, samples(16))
    (tmp_path / "s.zarr" / "mosaic" / "image" / "c.0.0.0.0.6f1b.partial").symlink_to("gone")
    assert set(stored_at(array(group, "image"))) == {1}


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_metadata_is_named(tmp_path: Path, content: str) -> None:
    group_of(tmp_path / "s.zarr", 8)
    (tmp_path / "s.zarr" / "mosaic" / "mask" / "zarr.json").write_text(content)
    group = open_group(tmp_path / "s.zarr", "mosaic")
    for ask in (lambda: array(group, "mask"), lambda: has_array(group, "mask"), lambda: arrays_of(group)):
        with pytest.raises(StoreError, match=r"mosaic/mask/zarr.json: damaged: .*verify RUN --repair"):
            ask()
    (tmp_path / "s.zarr" / "mosaic" / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=r"s.zarr/mosaic/zarr.json: damaged: .*verify RUN --repair"):
        open_group(tmp_path / "s.zarr", "mosaic")
    with pytest.raises(StoreError, match=r"s.zarr/mosaic/zarr.json: damaged: .*verify RUN --repair"):
        group_of(tmp_path / "s.zarr", 8)


def test_a_lost_chunk_never_reads_as_a_tissue_class(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 8)
    write(group, 0, samples(8))
    mask = np.asarray(array(group, "mask")[:])
    assert mask[:4].max() < LOST and (mask[4:] == LOST).all()


@pytest.mark.parametrize("name", list(CANDIDATE_ARRAYS))
@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_flipped_bit_is_found_when_read(tmp_path: Path, name: str, place: float) -> None:
    group = group_of(tmp_path / "s.zarr", 4)
    write(group, 0, samples(4))
    (shard,) = (tmp_path / "s.zarr" / "mosaic" / name).glob("c.*")
    damaged = bytearray(shard.read_bytes())
    damaged[int(place * len(damaged))] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(Exception, match=r"(?i)checksum|crc"):
        array(group, name)[:]


def test_what_was_not_committed_leaves_nothing(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 4)
    with pytest.raises(RuntimeError, match="stop"), ShardWriter(array(group, "image"), 0) as writer:
        writer.write(samples(2)["image"])
        raise RuntimeError("stop")
    assert [path.name for path in (tmp_path / "s.zarr/mosaic/image").iterdir()] == ["zarr.json"]


def test_blocks_are_the_memory_that_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the codecs, and wherever a buffer ends among the samples."""
    monkeypatch.setattr(objects, "_SMALLEST", 4096)
    data = samples(200)
    for number, codecs in enumerate(CODECS):
        store = StoreSection(shard=200, **codecs)
        ours, theirs = (group_of(tmp_path / f"{name}-{number}", 200, store) for name in ("ours", "theirs"))
        for name in ("image", "mask"):
            with ShardWriter(array(ours, name), 0) as writer:
                for start in (0, 90, 180):
                    with writer.block(min(90, 200 - start)) as block:
                        block[:] = data[name][start : start + 90]
                        assert all(sample.flags.c_contiguous for sample in block)
                writer.finish()
                commit(writer)
            array(theirs, name)[:] = data[name]
            (mine, other) = (object_path(array(group, name), 0) for group in (ours, theirs))
            assert mine and other and mine.read_bytes() == other.read_bytes()


def test_shards_appear_together_when_all_are_on_the_disk(tmp_path: Path) -> None:
    group, data = group_of(tmp_path / "s.zarr", 4), samples(4)
    arrays = [array(group, name) for name in ("image", "mask")]
    with ShardWriter(arrays[0], 0) as one, ShardWriter(arrays[1], 0) as other:
        for writer, name in ((one, "image"), (other, "mask")):
            writer.write(data[name])
            writer.finish()
            writer.wait()
        assert not any(complete_shards(each) for each in arrays)
        commit(one, other)
    assert all(complete_shards(each) == {0} for each in arrays)


def test_half_a_shard_is_refused(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 8)
    with pytest.raises(StoreError, match="shard 1: got 3 samples, expected 4"):
        write_shard(array(group, "mask"), 1, np.zeros((3, 6, 5), np.uint8))
    with (
        pytest.raises(StoreError, match="shard 1: got 3 samples, expected 4"),
        ShardWriter(array(group, "mask"), 1) as one,
    ):
        one.write(np.zeros((3, 6, 5), np.uint8))
        one.finish()


def test_a_store_that_is_on_no_disk_is_refused() -> None:
    stored: zarr.Array[Any] = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(4, 2), chunks=(1, 2), shards=(4, 2), dtype="u1", fill_value=0
    )
    with pytest.raises(StoreError, match="the store is neither on a disk nor at a URL"):
        ShardWriter(stored, 0)


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere.*no Zarr v3 group"):
        open_group(tmp_path / "nowhere")
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(StoreError, match="format_version is None, this synthpipe reads 1"):
        open_group(tmp_path / "other.zarr")
    group_of(tmp_path / "s.zarr", 4)
    with pytest.raises(StoreError, match="no array 'imag'; it has class_pixels, donors, image"):
        array(open_group(tmp_path / "s.zarr", "mosaic"), "imag")


def test_small_arrays_are_read_as_zarr_reads_them(tmp_path: Path) -> None:
    data = samples(12)
    group = group_of(tmp_path, 10)
    for shard in (0, 2):
        write(group, shard, data)
    for name in ("recipe", "class_pixels", "donors"):
        each = array(group, name)
        for start, stop in ((0, 10), (3, 9), (8, 99), (4, 8), (5, 5), (9, 10)):
            expected = np.asarray(each[start:stop])
            found = read_range(each, start, stop)
            assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_small_objects_are_read_with_a_bound_and_never_waited_for(tmp_path: Path) -> None:
    group = group_of(tmp_path, SHARD)
    write(group, 0, samples(SHARD))
    path = tmp_path / "mosaic/donors/c.0.0"
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match=r"donors/c\.0\.0: damaged: has 1099511627776 bytes, expected at most 1056; "):
        read_range(array(group, "donors"), 0, SHARD)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"donors/c\.0\.0: damaged: is a named pipe, expected a file; "):
        read_range(array(group, "donors"), 0, SHARD)


def test_only_names_that_are_written_count_as_shards(tmp_path: Path) -> None:
    group = group_of(tmp_path, 100)
    names = ["c.0", "c.12", "c.007", "c.٣", "c.1.0", "c.-1", "c.", "c.3.partial"]
    assert shard_numbers(array(group, "recipe"), names) == {0, 12}
