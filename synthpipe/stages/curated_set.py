"""The end of a build: verdicts, and the curated set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from synthpipe.curation import Kept, Verdicts, code
from synthpipe.records import Strategy
from synthpipe.stages.layout import add_verdicts, curated_group
from synthpipe.stages.state import BuildState, run_shards
from synthpipe.storage.schema import (
    CURATED_ARRAYS,
    array,
    complete_in_all,
    open_group,
)
from synthpipe.storage.shards import shards_of, write_shard
from synthpipe.tasks import CuratedTask, write_curated_shard


def write_verdicts(state: BuildState, strategy: Strategy, verdicts: Verdicts) -> None:
    """Store the verdicts; candidates beyond the plan, made for settings that were changed since, are surplus."""
    pipeline, size = state.pipeline, state.pipeline.store.shard
    group = open_group(state.run.candidates, strategy, writable=True)
    add_verdicts(group, pipeline, len(verdicts))
    for shard in shards_of(array(group, "verdict").shape[0], size):
        write_shard(array(group, "verdict"), shard, verdicts_of_shard(verdicts, shard, size))


def verdicts_of_shard(verdicts: Verdicts, shard: int, size: int) -> Verdicts:
    """Return (size,) uint8: the verdicts of a shard's candidates, of which those beyond the plan are surplus."""
    part = verdicts[shard * size : (shard + 1) * size]
    return np.concatenate([part, np.full(size - len(part), code("surplus"), np.uint8)])


def write_curated_set(state: BuildState, verdicts: Mapping[Strategy, Verdicts]) -> None:
    """Copy the kept candidates into the curated set's store: strategy by strategy, each in index order."""
    pipeline, size = state.pipeline, state.pipeline.store.shard
    kept = {strategy: Kept(codes) for strategy, codes in verdicts.items()}
    count = sum(map(len, kept.values()))
    target = curated_group(state.run.curated, pipeline, state.catalog, count)
    missing = sorted(set(shards_of(count, size)) - complete_in_all(target, CURATED_ARRAYS))
    tasks = (CuratedTask(state.job, shard, part_of(kept, shard * size, (shard + 1) * size)) for shard in missing)
    run_shards(state, "curated set", write_curated_shard, tasks, sum(min(size, count - n * size) for n in missing))


def part_of(kept: Mapping[Strategy, Kept], start: int, stop: int) -> dict[Strategy, NDArray[np.int64]]:
    """Return, by strategy, the indices of the samples from `start` to `stop` of all that is kept."""
    part = {}
    for strategy, indices in kept.items():
        if len(found := indices.between(start, stop)):
            part[strategy] = found
        start, stop = start - len(indices), stop - len(indices)
    return part
