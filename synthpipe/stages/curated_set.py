"""The end of a build: verdicts, and the curated set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from synthpipe.curation import Candidates
from synthpipe.records import Strategy, Verdict
from synthpipe.stages.state import BuildState, run_shards, sizes_of
from synthpipe.storage.schema import (
    CURATED_ARRAYS,
    FORMAT_VERSION,
    REASONS,
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


def write_verdicts(state: BuildState, strategy: Strategy, verdicts: tuple[Verdict, ...]) -> None:
    """Store the verdicts; candidates beyond the plan, made for settings that were changed since, are surplus."""
    pipeline, size = state.pipeline, state.pipeline.store.shard
    group = open_group(state.run.candidates, strategy, writable=True)
    ensure_arrays(group, VERDICT_ARRAYS, sizes_of(pipeline, len(verdicts)), pipeline.store)
    shards = shards_of(array(group, "verdict").shape[0], size)
    codes = np.full(len(shards) * size, REASONS.index("surplus"), np.uint8)
    codes[: len(verdicts)] = [REASONS.index(verdict.reason) for verdict in verdicts]
    for shard in shards:
        write_shard(array(group, "verdict"), shard, codes[shard * size : (shard + 1) * size])


def write_curated_set(
    state: BuildState, kept: list[tuple[Strategy, Verdict]], found: Mapping[Strategy, Candidates]
) -> None:
    """Copy the kept candidates, in their order, into the curated set's store."""
    pipeline, size = state.pipeline, state.pipeline.store.shard
    groups = sorted({patch.group for patch in state.catalog.donors})
    attributes = {
        "format_version": FORMAT_VERSION,
        "pipeline": pipeline.name,
        "fingerprint": pipeline.fingerprint(),
        **taxonomy_attributes(pipeline.taxonomy),
        "groups": groups,
    }
    donor_groups = _donor_groups(state, kept, found, groups)
    sizes = sizes_of(pipeline, len(kept)) | {"donor": donor_groups.shape[1]}
    target = create_group(state.run.curated, "", attributes)
    ensure_arrays(target, CURATED_ARRAYS, sizes, pipeline.store)
    missing = sorted(set(shards_of(len(kept), size)) - complete_in_all(target, CURATED_ARRAYS))

    def tasks() -> Iterator[CuratedTask]:
        for shard in missing:
            part = slice(shard * size, (shard + 1) * size)
            origins = tuple((strategy, verdict.index) for strategy, verdict in kept[part])
            p_real = tuple(float(found[strategy].p_real[index]) for strategy, index in origins)
            yield CuratedTask(state.job, shard, origins, p_real, donor_groups[part])

    count = sum(len(kept[shard * size : (shard + 1) * size]) for shard in missing)
    run_shards(state, "curated set", write_curated_shard, tasks(), count)


def _donor_groups(
    state: BuildState, kept: list[tuple[Strategy, Verdict]], found: Mapping[Strategy, Candidates], groups: list[str]
) -> NDArray[np.int32]:
    """Return (N, D) int32: the slides or patients of each kept composite as numbers into `groups`, then -1."""
    code = {group: number for number, group in enumerate(groups)}
    group_of = {patch.id: code[patch.group] for patch in state.catalog.donors}
    rows = [sorted({group_of[d] for d in found[strategy].donors[verdict.index]}) for strategy, verdict in kept]
    result = np.full((len(rows), max(map(len, rows), default=1)), -1, np.int32)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result
