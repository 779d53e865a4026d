"""Write verdicts and the curated set, the last steps of a build."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.curation import Kept, Verdicts, code
from synthpipe.build.state import BuildState
from synthpipe.build.tasks import CuratedTask, DonorTask, rejectable_donors, write_curated_shard, write_donors
from synthpipe.compose import SAMPLER_VERSION, donor_uses
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.core.threads import in_threads
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog
from synthpipe.storage.donors import DonorStore, DonorTable
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import DONORS
from synthpipe.storage.shards import planned_in, shards_of
from synthpipe.storage.stores import CompositeStore, CuratedStore

_SHARDS_READ = 16  # shards whose donors are read together
_OBJECTS_AT_ONCE = 16  # each object waits for the disk, or for the network


def write_verdicts(state: BuildState, strategy: Strategy, verdicts: Verdicts) -> None:
    """Store the verdicts of all candidates.

    Candidates beyond the plan get the verdict ``surplus``: they were rendered when earlier settings asked for more.
    Shards that already hold the same verdicts are not written again.
    """
    pipeline, size = state.pipeline, state.pipeline.store.shard
    candidates = CompositeStore.open(state.run.candidates, strategy, writable=True)
    candidates.extend_verdicts(pipeline, len(verdicts))
    length = candidates.length("verdict")
    shards, stored = shards_of(length, size), candidates.complete_shards("verdict")

    def write(shard: int) -> None:
        codes = verdicts_of_shard(verdicts, shard, size)
        if not (shard in stored and candidates.holds_verdicts(shard, codes)):
            candidates.write_verdicts(shard, codes)

    with state.reporter.stage(f"{strategy} verdicts", length) as advance:
        for shard, _ in zip(shards, in_threads(write, shards, _OBJECTS_AT_ONCE), strict=True):
            advance(planned_in([shard], length, size))


def verdicts_of_shard(verdicts: Verdicts, shard: int, size: int) -> Verdicts:
    """Return the verdicts of a shard, (size,) uint8; candidates beyond the plan have the verdict ``surplus``."""
    part = verdicts[shard * size : (shard + 1) * size]
    return np.concatenate([part, np.full(size - len(part), code("surplus"), np.uint8)])


def write_curated_set(state: BuildState, verdicts: Mapping[Strategy, Verdicts]) -> None:
    """Copy the kept candidates into the curated set, strategy by strategy and in index order.

    A complete shard is kept unless its candidates or their scores have changed.
    """
    pipeline, size = state.pipeline, state.pipeline.store.shard
    kept = {strategy: Kept(codes) for strategy, codes in verdicts.items()}
    count = sum(map(len, kept.values()))
    target = create_curated(state.run.curated, pipeline, state.catalog, count)
    if pipeline.filter.enabled:
        _remove_stale(state, target, kept)
    missing = target.missing_shards(count)
    tasks = (CuratedTask(shard, part_of(kept, shard * size, (shard + 1) * size)) for shard in missing)
    with state.reporter.stage("curated set", planned_in(missing, count, size)) as advance:
        for copied in state.executor.run(write_curated_shard, tasks):
            advance(copied)
    if target.virtual:
        _write_donors(state, kept)


def _write_donors(state: BuildState, kept: Mapping[Strategy, Kept]) -> None:
    """Store the donors of a virtual curated set. If other donors are stored, replace them."""
    path, table = state.run.curated, donor_table(state, kept)
    store = DonorStore.find(path, DONORS)
    if store and not store.holds(table):
        store.remove()
    store = DonorStore.create(path, table, state.pipeline.store)
    missing = store.missing_shards(table.rows())
    tasks = (DonorTask(table, shard) for shard in missing)
    with state.reporter.stage("donors of the curated set", len(missing)) as advance:
        for _ in state.executor.run(write_donors, tasks):
            advance(1)


def donor_table(state: BuildState, kept: Mapping[Strategy, Kept]) -> DonorTable:
    """Return the donors of a virtual curated set: donors that composites use, and donors that sampling may reject."""
    pipeline, donors = state.pipeline, state.catalog.donors
    glass = [pipeline.glass] if pipeline.glass else []
    rejectable = [number for numbers in state.executor.run(rejectable_donors, glass) for number in numbers]
    used = used_donors(state.run, kept, len(donors), pipeline.store.shard)
    numbers = frozenset(np.flatnonzero(used).tolist()).union(rejectable)
    return DonorTable.of(donors, numbers, pipeline.canvas if pipeline.bezier else None)


def used_donors(run: RunDirectory, kept: Mapping[Strategy, Kept], count: int, shard: int) -> NDArray[np.bool_]:
    """Return whether the kept candidates use each of `count` donors, (D,) bool."""
    used = np.zeros(count, np.bool_)
    for strategy, indices in kept.items():
        candidates = CompositeStore.open(run.candidates, strategy)
        for start in range(0, len(indices), _SHARDS_READ * shard):
            drawn = candidates.donors(indices.between(start, start + _SHARDS_READ * shard).tolist())
            used[drawn[drawn >= 0]] = True
    return used


def create_curated(path: Location | None, pipeline: Pipeline, catalog: Catalog, count: int) -> CuratedStore:
    """Create or lengthen the curated set of a run. If `path` is None, create it in memory, to compare with."""
    groups = sorted({patch.group for patch in catalog.donors})
    uses = max(donor_uses(pipeline, strategy) for strategy in pipeline.strategies)
    return CuratedStore.of_run(path, pipeline, groups, catalog.digest, count, uses, SAMPLER_VERSION)


def _remove_stale(state: BuildState, target: CuratedStore, kept: Mapping[Strategy, Kept]) -> None:
    """Remove the shards of the curated set whose composites or scores differ from the kept candidates.

    Only the shard's object in the array that is written last is removed. The shard then counts as missing, and is
    written again in all arrays. Origins and scores are compared, because all other arrays follow from them.
    """
    size = state.pipeline.store.shard
    candidates = {strategy: CompositeStore.open(state.run.candidates, strategy) for strategy in kept}

    def stale(shard: int) -> bool:
        start, stop = shard * size, (shard + 1) * size
        origins = part_of(kept, start, stop)
        wanted = {
            "origin_strategy": [np.full(len(each), STRATEGIES.index(strategy)) for strategy, each in origins.items()],
            "origin_index": list(origins.values()),
            "p_real": [candidates[strategy].scores(each.tolist()) for strategy, each in origins.items()],
        }
        return not all(
            np.array_equal(target.read(name, slice(start, stop)), np.concatenate(parts))
            for name, parts in wanted.items()
        )

    planned = shards_of(sum(map(len, kept.values())), size)
    complete = sorted(target.complete_shards().intersection(planned))
    for shard, is_stale in zip(complete, in_threads(stale, complete, _OBJECTS_AT_ONCE), strict=True):
        if is_stale:
            target.discard(shard)


def part_of(kept: Mapping[Strategy, Kept], start: int, stop: int) -> dict[Strategy, NDArray[np.int64]]:
    """Return the candidates that are samples `start` to `stop` of the curated set, by strategy."""
    part = {}
    for strategy, indices in kept.items():
        if len(found := indices.between(start, stop)):
            part[strategy] = found
        start, stop = start - len(indices), stop - len(indices)
    return part
