"""The end of a build: verdicts, and the curated set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from synthpipe.curation import Kept, Verdicts, code
from synthpipe.records import Strategy
from synthpipe.stages.state import BuildState, run_shards, sizes_of
from synthpipe.storage.schema import (
    CURATED_ARRAYS,
    FORMAT_VERSION,
    VERDICT_ARRAYS,
    array,
    complete_in_all,
    create_group,
    ensure_arrays,
    open_group,
    taxonomy_attributes,
)
from synthpipe.storage.shards import shards_of, write_shard
from synthpipe.tasks import CuratedTask, write_curated_shard


def write_verdicts(state: BuildState, strategy: Strategy, verdicts: Verdicts) -> None:
    """Store the verdicts; candidates beyond the plan, made for settings that were changed since, are surplus."""
    pipeline, size = state.pipeline, state.pipeline.store.shard
    group = open_group(state.run.candidates, strategy, writable=True)
    ensure_arrays(group, VERDICT_ARRAYS, sizes_of(pipeline, len(verdicts)), pipeline.store)
    for shard in shards_of(array(group, "verdict").shape[0], size):
        part = verdicts[shard * size : (shard + 1) * size]
        rest = np.full(size - len(part), code("surplus"), np.uint8)
        write_shard(array(group, "verdict"), shard, np.concatenate([part, rest]))


def write_curated_set(state: BuildState, verdicts: Mapping[Strategy, Verdicts]) -> None:
    """Copy the kept candidates into the curated set's store: strategy by strategy, each in index order."""
    pipeline, size = state.pipeline, state.pipeline.store.shard
    attributes = {
        "format_version": FORMAT_VERSION,
        "pipeline": pipeline.name,
        "fingerprint": pipeline.fingerprint(),
        **taxonomy_attributes(pipeline.taxonomy),
        "groups": sorted({patch.group for patch in state.catalog.donors}),
        "patches": pipeline.patches.model_dump(mode="json", exclude={"root"}),
        "glass": pipeline.glass.model_dump(mode="json") if pipeline.glass else None,
        "source": {"patches": state.catalog.digest},
    }
    kept = {strategy: Kept(codes) for strategy, codes in verdicts.items()}
    count = sum(map(len, kept.values()))
    target = create_group(state.run.curated, "", attributes)
    ensure_arrays(target, CURATED_ARRAYS, sizes_of(pipeline, count, *kept), pipeline.store)
    missing = sorted(set(shards_of(count, size)) - complete_in_all(target, CURATED_ARRAYS))
    tasks = (CuratedTask(state.job, shard, _part(kept, shard * size, (shard + 1) * size)) for shard in missing)
    run_shards(state, "curated set", write_curated_shard, tasks, sum(min(size, count - n * size) for n in missing))


def _part(kept: Mapping[Strategy, Kept], start: int, stop: int) -> dict[Strategy, NDArray[np.int64]]:
    """Return, by strategy, the indices of the samples from `start` to `stop` of all that is kept."""
    part = {}
    for strategy, indices in kept.items():
        if len(found := indices.between(start, stop)):
            part[strategy] = found
        start, stop = start - len(indices), stop - len(indices)
    return part
