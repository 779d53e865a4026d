"""Task that scores shards of candidates with the trained filter. Only this task loads torch to score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synthpipe.build.tasks.rendering import Columns, make_composite
from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import Block
from synthpipe.core.errors import FilterError
from synthpipe.core.records import Image, Strategy
from synthpipe.files.locations import exists
from synthpipe.storage.chunks import Samples
from synthpipe.storage.run import read_json
from synthpipe.storage.stores import CompositeStore

if TYPE_CHECKING:
    from synthpipe.compose.gpu import Renderer
    from synthpipe.filtering.rendering import RenderedImages

Fill = Callable[[int, Image], None]
"""Function that fills an (n, H, W, 3) uint8 array with n consecutive candidates, from the given position on."""


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Shards of a strategy's candidates to score, one after the other without a pause."""

    strategy: Strategy
    shards: tuple[int, ...]

    def __repr__(self) -> str:
        return f"scores of shards {self.shards[0]} to {self.shards[-1]} of {self.strategy} candidates"


def score_shards(worker: WorkerState, task: ScoreTask) -> tuple[int, int]:
    """Score shards of candidates and store the scores; return the numbers of planned and of accepted candidates.

    Virtual candidates are rendered here, and their columns are stored together with the scores.
    """
    job, size = worker.job, worker.job.pipeline.store.shard
    store = CompositeStore.open(job.run.candidates, task.strategy, writable=True)
    scorer = worker.scorer(task.strategy)
    expected = read_json(job.run.report(task.strategy))["model_sha256"]
    if scorer.sha256 != expected:
        raise FilterError(
            f"{job.run.weights(task.strategy)}: is not the filter that its report {job.run.report(task.strategy).name} "
            "describes; remove both and build again"
        )
    numbers = [number for shard in task.shards for number in range(shard * size, (shard + 1) * size)]
    columns = Columns(worker, task.strategy, "candidate", len(numbers)) if store.virtual else None
    canvas, batch = job.pipeline.canvas, job.pipeline.filter.batch
    if columns is None:
        p_real = scorer.score_filled(_reading(worker, task.strategy, store, numbers), len(numbers), canvas, batch)
    elif renderer := worker.renderer(task.strategy):
        images = _rendering_on_gpu(columns, numbers, renderer, job.pipeline.taxonomy.background + 1)
        p_real = scorer.score_filled(images, len(numbers), canvas, batch)
        columns.set_class_pixels(images.class_pixels())
    else:
        p_real = scorer.score_filled(_rendering(columns, numbers, canvas), len(numbers), canvas, batch)
    for first, shard in enumerate(task.shards):
        start, stop = first * size, (first + 1) * size
        made = columns.arrays(start, stop) if columns else {}
        _write(store, shard, {**made, "p_real": p_real[start:stop]})
    planned = p_real[np.array(numbers) < store.length()]
    return len(planned), int(np.count_nonzero(planned > job.pipeline.curation.threshold))


def _reading(worker: WorkerState, strategy: Strategy, store: CompositeStore, numbers: Sequence[int]) -> Fill:
    """Return a function that reads the images of candidates."""
    images = store.images()

    def fill(start: int, out: Image) -> None:
        shown = numbers[start : start + len(out)]
        stored = [number for number in shown if number < len(images)]
        images.read_many(stored, out[: len(stored)])
        # the last shard may reach beyond the plan; scores are final, so the whole shard is scored
        for number, image in zip(shown[len(stored) :], out[len(stored) :], strict=True):
            image[:] = make_composite(worker, strategy, "candidate", number).image

    return fill


def _rendering(columns: Columns, numbers: Sequence[int], canvas: tuple[int, int]) -> Fill:
    """Return a function that renders candidates, and collects their columns."""

    def fill(start: int, out: Image) -> None:
        columns.render(numbers[start : start + len(out)], out, np.empty((len(out), *canvas), np.uint8))

    return fill


def _rendering_on_gpu(columns: Columns, numbers: Sequence[int], renderer: Renderer, labels: int) -> RenderedImages:
    """Return candidates that the filter's GPU renders, and collect their columns."""
    from synthpipe.filtering.rendering import RenderedImages

    def sample(start: int, count: int) -> Block:
        (block,) = columns.sample(numbers[start : start + count])
        return block

    return RenderedImages(renderer, sample, labels)


def _write(store: CompositeStore, shard: int, arrays: Mapping[str, Samples]) -> None:
    """Store the arrays of a shard that do not exist yet; existing arrays have the same values already."""
    missing = {name: samples for name, samples in arrays.items() if not exists(store.object(name, shard))}
    with store.writing(shard, missing) as writers:
        for name, samples in missing.items():
            writers[name].write(samples)
            writers[name].finish()
