from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from synthpipe.config import StoreSection
from synthpipe.errors import StoreError
from synthpipe.storage.schema import (
    CANDIDATE_ARRAYS,
    SCORE_ARRAYS,
    VERDICT_ARRAYS,
    array,
    create_group,
    ensure_arrays,
    open_group,
)
from synthpipe.storage.shards import complete_shards, shard_size, shards_of, write_shard
from synthpipe.taxonomy import LOST

SHARD = 4
STORE = StoreSection(shard=SHARD)


def group_of(path: Path, length: int) -> zarr.Group:
    group = create_group(path, "mosaic", {"format_version": 1})
    sizes = {"sample": length, "y": 6, "x": 5, "channel": 3, "class_or_background": 4}
    ensure_arrays(group, CANDIDATE_ARRAYS, sizes, STORE)
    return group


def samples(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8),
        "mask": rng.integers(0, 4, (count, 6, 5), dtype=np.uint8),
        "class_pixels": rng.integers(0, 99, (count, 4), dtype=np.int32),
        "recipe": [f'{{"number":{number},"name":"\u00e9"}}' for number in range(count)],
    }


def write(group: zarr.Group, shard: int, data: dict[str, Any]) -> None:
    for name in CANDIDATE_ARRAYS:
        write_shard(array(group, name), shard, data[name][shard * SHARD : (shard + 1) * SHARD])


def test_zarr_and_xarray_read_what_was_written(tmp_path: Path) -> None:
    data = samples(12)
    group = group_of(tmp_path / "s.zarr", 10)
    for shard in (2, 0, 1):
        write(group, shard, data)
    read = open_group(tmp_path / "s.zarr", "mosaic")
    dataset = xarray.open_zarr(tmp_path / "s.zarr", group="mosaic", consolidated=False)
    assert dict(dataset.sizes) == {"sample": 10, "y": 6, "x": 5, "channel": 3, "class_or_background": 4}
    for name in CANDIDATE_ARRAYS:
        expected = np.array(data[name][:10])
        assert np.array_equal(np.asarray(array(read, name)[:]).astype(expected.dtype), expected)
        assert np.array_equal(dataset[name].values.astype(expected.dtype), expected)
        assert dataset[name].dtype.kind == array(read, name).dtype.kind


def test_lengthening_shows_the_samples_that_waited_and_rewrites_nothing(tmp_path: Path) -> None:
    data = samples(12)
    write(group_of(tmp_path / "s.zarr", 6), 1, data)
    stored = (tmp_path / "s.zarr" / "mosaic" / "image" / "c.1.0.0.0").read_bytes()
    longer = group_of(tmp_path / "s.zarr", 11)
    assert array(longer, "image").shape[0] == 11
    assert np.array_equal(np.asarray(array(longer, "image")[4:8]), data["image"][4:8])
    assert (tmp_path / "s.zarr" / "mosaic" / "image" / "c.1.0.0.0").read_bytes() == stored
    assert array(group_of(tmp_path / "s.zarr", 3), "image").shape[0] == 11


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


def test_a_lost_chunk_never_reads_as_a_tissue_class(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 8)
    write(group, 0, samples(8))
    mask = np.asarray(array(group, "mask")[:])
    assert mask[:4].max() < LOST and (mask[4:] == LOST).all()


@pytest.mark.parametrize("name", ["image", "mask", "class_pixels", "recipe"])
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


def test_half_a_shard_is_refused(tmp_path: Path) -> None:
    group = group_of(tmp_path / "s.zarr", 8)
    with pytest.raises(StoreError, match="shard 1 takes 4 samples, got 3"):
        write_shard(array(group, "mask"), 1, np.zeros((3, 6, 5), np.uint8))


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere.*no Zarr v3 group"):
        open_group(tmp_path / "nowhere")
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(StoreError, match="format_version is None, this synthpipe reads 1"):
        open_group(tmp_path / "other.zarr")
    group_of(tmp_path / "s.zarr", 4)
    with pytest.raises(StoreError, match="no array 'imag'; found class_pixels, image"):
        array(open_group(tmp_path / "s.zarr", "mosaic"), "imag")
