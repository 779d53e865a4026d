"""Task that scores shards of candidates with the trained filter. Only this task loads torch to score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthpipe.build.tasks.rendering import make_composite
from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.core.errors import FilterError
from synthpipe.core.records import Image, Strategy
from synthpipe.storage.run import read_json
from synthpipe.storage.stores import CompositeStore


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Shards of a strategy's candidates to score, one after the other without a pause."""

    strategy: Strategy
    shards: tuple[int, ...]

    def __repr__(self) -> str:
        return f"scores of shards {self.shards[0]} to {self.shards[-1]} of {self.strategy} candidates"


def score_shards(worker: WorkerState, task: ScoreTask) -> tuple[int, int]:
    """Score shards of candidates and store the scores; return how many are planned, and how many of these pass."""
    job, size = worker.job, worker.job.pipeline.store.shard
    store = CompositeStore.open(job.run.candidates, task.strategy, writable=True)
    images = store.images()
    scorer = worker.scorer(task.strategy)
    expected = read_json(job.run.report(task.strategy))["model_sha256"]
    if scorer.sha256 != expected:
        raise FilterError(
            f"{job.run.weights(task.strategy)}: is not the filter that its report {job.run.report(task.strategy).name} "
            "describes; remove both and build again"
        )
    numbers = [number for shard in task.shards for number in range(shard * size, (shard + 1) * size)]

    def fill(start: int, out: Image) -> None:
        shown = numbers[start : start + len(out)]
        stored = [number for number in shown if number < len(images)]
        images.read_many(stored, out[: len(stored)])
        # the last shard may reach beyond what is planned; scores are final, so it is scored as a whole
        for number, image in zip(shown[len(stored) :], out[len(stored) :], strict=True):
            image[:] = make_composite(worker, task.strategy, "candidate", number).image

    p_real = scorer.score_filled(fill, len(numbers), job.pipeline.canvas, job.pipeline.filter.batch)
    for shard, scores in zip(task.shards, p_real.reshape(-1, size), strict=True):
        store.write_scores(shard, scores)
    planned = p_real[np.array(numbers) < len(images)]
    return len(planned), int(np.count_nonzero(planned > job.pipeline.curation.threshold))
