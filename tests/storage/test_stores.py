"""The typed stores of composites and curated sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import StoreError
from synthpipe.core.records import REASONS
from synthpipe.core.taxonomy import LOST
from synthpipe.files.locations import Location
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CompositeStore, CuratedStore
from tests.conftest import pipeline

SHARD, USES = 4, 3


@pytest.fixture
def settings() -> Pipeline:
    return pipeline("canvas=32", "mosaic.tile=16", f"store.shard={SHARD}")


def create(path: Location | None, settings: Pipeline, count: int) -> CompositeStore:
    return CompositeStore.create(path, settings, "mosaic", "candidate", count, USES)


def create_curated(path: Location | None, settings: Pipeline, count: int) -> CuratedStore:
    return CuratedStore.of_run(path, settings, ["slide-1", "slide-2"], "0" * 64, count, USES, 1)


def fill(store: Store, shard: int) -> None:
    """Write a shard whose numbers are all the shard's number."""
    with store.writing(shard) as writers:
        for name, writer in writers.items():
            samples = store.blank(name, SHARD)
            samples[...] = f"recipe {shard}" if name == "recipe" else shard
            writer.write(samples.tolist() if name == "recipe" else samples)
            writer.finish()


def test_a_new_store_misses_every_shard_and_opens_again_with_its_classes(tmp_path: Path, settings: Pipeline) -> None:
    create(tmp_path / "s.zarr", settings, 10)
    store = CompositeStore.open(tmp_path / "s.zarr", "mosaic")
    assert store.length() == 10 and store.shard == SHARD and store.taxonomy == settings.taxonomy
    assert store.missing_shards(10) == [0, 1, 2] and store.missing_shards(5) == [0, 1]
    assert len(list(store.missing_objects())) == 3 * len(store.written)
    assert CompositeStore.open(tmp_path / "s.zarr").groups() == ["mosaic"]
    assert CompositeStore.find(tmp_path / "s.zarr", "bezier") is None


def test_a_store_in_memory_has_the_metadata_of_a_stored_one(tmp_path: Path, settings: Pipeline) -> None:
    folder = tmp_path / "s.zarr" / "mosaic"
    stored, compared = create(tmp_path / "s.zarr", settings, 6), create(None, settings, 6)
    metadata = compared.metadata(folder, stored.written)
    assert len(metadata) == 2 + len(stored.written)
    assert metadata == stored.metadata(folder, stored.written)


def test_a_written_shard_is_complete_and_read_back(tmp_path: Path, settings: Pipeline) -> None:
    store = create(tmp_path / "s.zarr", settings, 10)
    fill(store, 1)
    assert store.complete_shards() == {1} and store.missing_shards(10) == [0, 2]
    assert store.stored_at("image").keys() == {1}
    assert store.class_pixels([3, 4, 7]).tolist() == [[-1] * 4, [1] * 4, [1] * 4]
    assert store.donors(slice(6, 99)).tolist() == 2 * [[1] * USES] + 2 * [[-1] * USES]
    assert store.recipes([4]).tolist() == ["recipe 1"]
    assert (store.images()[5] == 1).all() and (store.masks()[5] == 1).all()
    with pytest.raises(StoreError, match="mosaic/recipe"):
        store.recipe(4, settings.canvas)


def test_a_shard_that_fails_leaves_nothing_behind(tmp_path: Path, settings: Pipeline) -> None:
    store = create(tmp_path / "s.zarr", settings, 4)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="shard 0: got 3 samples, expected 4"), store.writing(0) as writers:
        writers["image"].write(store.blank("image", 3))
        writers["image"].finish()
    assert sorted(tmp_path.rglob("*")) == before


def test_only_finished_shards_of_chosen_arrays_replace_others(tmp_path: Path, settings: Pipeline) -> None:
    store = create(tmp_path / "s.zarr", settings, 4)
    fill(store, 0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with store.writing(0, []) as writers:
        assert not writers
    with pytest.raises(RuntimeError, match="shard 0 is not finished"), store.writing(0):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_longer_store_keeps_its_shards_and_a_shorter_one_its_length(tmp_path: Path, settings: Pipeline) -> None:
    fill(create(tmp_path / "s.zarr", settings, 3), 0)
    longer = create(tmp_path / "s.zarr", settings, 9)
    assert longer.length() == 9 and longer.complete_shards() == {0}
    assert longer.donors([3]).tolist() == [[0] * USES]  # it waited in the shard
    assert create(tmp_path / "s.zarr", settings, 5).length() == 9


def test_blocks_hold_neighbours_that_all_arrays_have(tmp_path: Path, settings: Pipeline) -> None:
    store = create(tmp_path / "s.zarr", settings, 4 * 20 + 2)
    for shard in (0, *range(2, 21)):
        fill(store, shard)
    assert list(store.blocks("donors")) == [slice(0, 4), slice(8, 72), slice(72, 82)]
    store.object("image", 0).unlink()
    assert list(store.blocks(stop=70)) == [slice(8, 70)]


def test_scores_and_verdicts_come_later_and_remember_their_filter(tmp_path: Path, settings: Pipeline) -> None:
    store = create(tmp_path / "s.zarr", settings, 6)
    assert store.scored_by() is None and not store.has("p_real", "verdict")
    store.extend_scores(settings, 6, "1" * 64)
    store.extend_verdicts(settings, 6)
    assert store.scored_by() == "1" * 64 and store.missing_shards(6, "p_real") == [0, 1]
    scores, verdicts = np.linspace(0, 1, SHARD, dtype=np.float32), np.full(SHARD, REASONS.index("surplus"), np.uint8)
    store.write_scores(0, scores)
    store.write_verdicts(0, verdicts)
    assert store.missing_shards(6, "p_real") == [1]
    np.testing.assert_array_equal(store.scores(slice(0, 6)), [*scores, np.nan, np.nan])
    assert store.verdicts([0, 5]).tolist() == [verdicts[0], LOST]
    assert store.holds_verdicts(0, verdicts)
    assert not store.holds_verdicts(0, verdicts + 1) and not store.holds_verdicts(1, verdicts)


def test_a_curated_set_describes_its_pipeline_and_counts_a_discarded_shard_as_missing(
    tmp_path: Path, settings: Pipeline
) -> None:
    create_curated(tmp_path / "c.zarr", settings, 6)
    store = CuratedStore.open(tmp_path / "c.zarr", writable=True)
    assert store.attributes["fingerprint"] == settings.fingerprint() and store.attributes["groups"][0] == "slide-1"
    for shard in (0, 1):
        fill(store, shard)
    store.discard(1)
    assert store.missing_shards(6) == [1] and store.complete_shards("mask") == {0, 1}
    store.write("image", 1, store.blank("image", SHARD))
    assert not store.missing_shards(6)
    assert store.read("origin_index", [4]).tolist() == [1]


def test_a_store_that_is_none_or_lacks_an_array_is_refused(tmp_path: Path, settings: Pipeline) -> None:
    store = create(tmp_path / "s.zarr", settings, 4)
    with pytest.raises(
        StoreError, match="mosaic: the group has no array 'p_real'; it has class_pixels, donors, image, mask, recipe"
    ):
        store.scores([0])
    with pytest.raises(StoreError, match="bezier: no Zarr v3 group"):
        CompositeStore.open(tmp_path / "s.zarr", "bezier")
    with pytest.raises(StoreError, match="no Zarr v3 group"):
        CuratedStore.open(tmp_path / "c.zarr")
    with pytest.raises(StoreError, match="shard 0: got 2 samples, expected 4"):
        create_curated(tmp_path / "c.zarr", settings, 4).write("image", 0, np.zeros((2, 32, 32, 3), np.uint8))
