"""Task that copies kept candidates into one shard of the curated set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import donor_uses
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.storage.donor_groups import donor_group_columns
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.store import Store
from synthpipe.storage.stores import CompositeStore, CuratedStore

_READ = 256  # approximate number of composites in memory
_PIXELS = ("image", "mask")

Origins = Mapping[Strategy, NDArray[np.int64]]
"""For each strategy, the indices of samples among its candidates, (n,)."""


@dataclass(frozen=True, slots=True)
class CuratedTask:
    """One shard of the curated set, and where its samples come from."""

    shard: int
    origins: Origins

    def __repr__(self) -> str:
        return f"shard {self.shard} of the curated set"


def write_curated_shard(worker: WorkerState, task: CuratedTask) -> int:
    """Copy a shard of kept candidates into the curated set, pixels block by block; return how many were copied.

    A virtual set gets no pixels.
    """
    job, size = worker.job, worker.job.pipeline.store.shard
    target = CuratedStore.open(job.run.curated, writable=True)
    candidates = {each: CompositeStore.open(job.run.candidates, each) for each in task.origins}
    small = _small_arrays(job.pipeline, candidates, target, task.origins, worker.group_numbers)
    with target.writing(task.shard) as writers:
        for name in () if target.virtual else _PIXELS:
            for block in _blocks(size, _READ):
                count, origins = block.stop - block.start, _between(task.origins, block.start, block.stop)
                writers[name].write(_pixels(candidates, target, name, origins, count))
            writers[name].finish()  # the disk writes this array while the others are encoded
        for name, samples in small.items():
            writers[name].write(samples)
            writers[name].finish()
    return sum(map(len, task.origins.values()))


def curated_shard(
    pipeline: Pipeline, run: RunDirectory, target: Store, origins: Origins, group_numbers: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """Return the samples that a shard of the curated set must have.

    Parameters
    ----------
    pipeline, run
        The run that has the candidates.
    target : Store
        The curated set, whose arrays have the right shapes.
    origins : mapping of str to (n,) int64
        As in `CuratedTask`.
    group_numbers : (D,) int32
        The index of each donor's group among the groups of all donors.

    Returns
    -------
    dict of str to (N, ...) array
        The shard of each array of the set, with the fill value where there is no composite.
    """
    candidates = {each: CompositeStore.open(run.candidates, each) for each in origins}
    small = _small_arrays(pipeline, candidates, target, origins, group_numbers)
    pixels = () if target.virtual else _PIXELS
    return small | {name: _pixels(candidates, target, name, origins, pipeline.store.shard) for name in pixels}


def _small_arrays(
    pipeline: Pipeline,
    candidates: Mapping[Strategy, CompositeStore],
    target: Store,
    origins: Origins,
    group_numbers: NDArray[np.int32],
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a shard of the curated set, without pixels."""
    shard = {name: target.blank(name, pipeline.store.shard) for name in target.written if name not in _PIXELS}
    groups = np.full((pipeline.store.shard, _most_uses(pipeline)), -1, np.int32)
    count = 0
    for strategy, origin in origins.items():
        indices, part, store = origin.tolist(), slice(count, count + len(origin)), candidates[strategy]
        count += len(origin)
        shard["origin_strategy"][part], shard["origin_index"][part] = STRATEGIES.index(strategy), origin
        if "recipe" in shard:
            shard["recipe"][part] = store.recipes(indices)
        shard["labels"][part] = store.class_pixels(indices)[:, : len(pipeline.classes)] > 0
        if pipeline.filter.enabled:
            shard["p_real"][part] = store.scores(indices)
        donors = store.donors(indices)
        groups[part, : donors.shape[1]] = _groups_of(donors, group_numbers)
    return shard | donor_group_columns(target, groups)


def _most_uses(pipeline: Pipeline) -> int:
    return max(donor_uses(pipeline, strategy) for strategy in pipeline.strategies)


def _pixels(
    candidates: Mapping[Strategy, CompositeStore], target: Store, name: str, origins: Origins, size: int
) -> NDArray[np.uint8]:
    """Return the images or masks of `origins`, one strategy after the other, and the fill value up to `size`."""
    pixels: NDArray[np.uint8] = target.blank(name, size)
    count = 0
    for strategy, origin in origins.items():
        candidates[strategy].pixels(name).read_many(origin.tolist(), pixels[count : count + len(origin)])
        count += len(origin)
    return pixels


def _blocks(size: int, block: int) -> Iterator[slice]:
    """Yield slices that cut `size` samples into blocks."""
    return (slice(start, min(start + block, size)) for start in range(0, size, block))


def _between(origins: Origins, start: int, stop: int) -> dict[Strategy, NDArray[np.int64]]:
    """Return the origins from index `start` to `stop`, counted over all strategies in order."""
    part = {}
    for strategy, origin in origins.items():
        part[strategy] = origin[max(0, start) : max(0, stop)]
        start, stop = start - len(origin), stop - len(origin)
    return part


def _groups_of(donors: NDArray[np.int32], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return (N, D) int32: each row has the groups of a composite's donors in ascending order, then -1."""
    groups = np.sort(np.where(donors >= 0, numbers[donors], -1), axis=1)
    groups[:, 1:][groups[:, 1:] == groups[:, :-1]] = -1
    return np.take_along_axis(groups, np.argsort(groups < 0, axis=1, kind="stable"), axis=1)
