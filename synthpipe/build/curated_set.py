"""The end of a build: verdicts, and the curated set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import zarr
from numpy.typing import NDArray

from synthpipe.build.curation import Kept, Verdicts, code
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.build.layout import add_verdicts, curated_group
from synthpipe.build.state import BuildState
from synthpipe.storage.schema import (
    CURATED_ARRAYS,
    array,
    complete_in_all,
    open_group,
)
from synthpipe.storage.shards import (
    complete_shards,
    holds,
    object_path,
    planned_in,
    read_range,
    read_small,
    shards_of,
    write_shard,
)
from synthpipe.build.tasks import CuratedTask, write_curated_shard
from synthpipe.core.threads import in_threads

_OBJECTS_AT_ONCE = 16  # each waits for the disk, or for the network


def write_verdicts(state: BuildState, strategy: Strategy, verdicts: Verdicts) -> None:
    """Store the verdicts; candidates beyond the plan, made for settings that were changed since, are surplus.

    Shards that have theirs already stay as they are.
    """
    pipeline, size = state.pipeline, state.pipeline.store.shard
    group = open_group(state.run.candidates, strategy, writable=True)
    add_verdicts(group, pipeline, len(verdicts))
    target = array(group, "verdict")
    shards, stored = shards_of(target.shape[0], size), complete_shards(target)

    def write(shard: int) -> None:
        codes = verdicts_of_shard(verdicts, shard, size)
        if not (shard in stored and holds(target, shard, codes)):
            write_shard(target, shard, codes)

    length = target.shape[0]
    with state.reporter.stage(f"{strategy} verdicts", length) as advance:
        for shard, _ in zip(shards, in_threads(write, shards, _OBJECTS_AT_ONCE), strict=True):
            advance(planned_in([shard], length, size))


def verdicts_of_shard(verdicts: Verdicts, shard: int, size: int) -> Verdicts:
    """Return (size,) uint8: the verdicts of a shard's candidates, of which those beyond the plan are surplus."""
    part = verdicts[shard * size : (shard + 1) * size]
    return np.concatenate([part, np.full(size - len(part), code("surplus"), np.uint8)])


def write_curated_set(state: BuildState, verdicts: Mapping[Strategy, Verdicts]) -> None:
    """Copy the kept candidates into the curated set's store: strategy by strategy, each in index order.

    Shards that are there stay, except where the candidates were scored anew since and others are kept.
    """
    pipeline, size = state.pipeline, state.pipeline.store.shard
    kept = {strategy: Kept(codes) for strategy, codes in verdicts.items()}
    count = sum(map(len, kept.values()))
    target = curated_group(state.run.curated, pipeline, state.catalog, count)
    if pipeline.filter.enabled:
        _remove_stale(state, target, kept)
    missing = sorted(set(shards_of(count, size)) - complete_in_all(target, CURATED_ARRAYS))
    tasks = (CuratedTask(state.job, shard, part_of(kept, shard * size, (shard + 1) * size)) for shard in missing)
    with state.reporter.stage("curated set", planned_in(missing, count, size)) as advance:
        for copied in state.executor.run(write_curated_shard, tasks):
            advance(copied)


def _remove_stale(state: BuildState, target: zarr.Group, kept: Mapping[Strategy, Kept]) -> None:
    """Remove the shards that hold other composites than are kept now, or other scores.

    Only their images go, which are written last: without them a shard counts as missing, and is written as a whole. All
    else follows from what is compared.
    """
    size = state.pipeline.store.shard
    stored = {name: array(target, name) for name in ("origin_strategy", "origin_index", "p_real")}
    scores = {strategy: array(open_group(state.run.candidates, strategy), "p_real") for strategy in kept}

    def stale(shard: int) -> bool:
        start, stop = shard * size, (shard + 1) * size
        origins = part_of(kept, start, stop)
        wanted = {
            "origin_strategy": [np.full(len(each), STRATEGIES.index(strategy)) for strategy, each in origins.items()],
            "origin_index": list(origins.values()),
            "p_real": [read_small(scores[strategy], each.tolist()) for strategy, each in origins.items()],
        }
        return not all(
            np.array_equal(read_range(stored[name], start, stop), np.concatenate(parts))
            for name, parts in wanted.items()
        )

    planned = shards_of(sum(map(len, kept.values())), size)
    complete = sorted(complete_in_all(target, CURATED_ARRAYS).intersection(planned))
    for shard, is_stale in zip(complete, in_threads(stale, complete, _OBJECTS_AT_ONCE), strict=True):
        if is_stale:
            object_path(array(target, "image"), shard).unlink()


def part_of(kept: Mapping[Strategy, Kept], start: int, stop: int) -> dict[Strategy, NDArray[np.int64]]:
    """Return, by strategy, the indices of the samples from `start` to `stop` of all that is kept."""
    part = {}
    for strategy, indices in kept.items():
        if len(found := indices.between(start, stop)):
            part[strategy] = found
        start, stop = start - len(indices), stop - len(indices)
    return part
