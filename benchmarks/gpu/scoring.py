"""Scoring on a GPU: its speed beside the bare network's, and whether scores depend on anything but the image."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.filtering import rate
from benchmarks.gpu.found import Found
from benchmarks.gpu.watching import watched
from synthpipe.build.tasks import Job, ScoreTask, score_shards
from synthpipe.filtering.scoring import Scorer
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.stores import CompositeStore

_ROUNDS = 5
_TARGET = 0.9  # of the bare network's rate
_NEAR = 0.02  # probabilities of a GPU, which rounds convolutions to TF32, and of a CPU


def scoring(bench: Bench, found: Found) -> None:
    """Score candidates from Zarr to Zarr, and compare with the bare network on images that lie on the device."""
    sha256 = bench.filter.model_sha256
    job, batch = bench.job, bench.scale.batch
    images = SampleReader(array(open_group(job.run.candidates, "mosaic"), "image"))
    shards = tuple(range(len(images) // bench.scale.shard))
    stored = _scores(job, sha256, shards)  # warms up
    seconds = []
    with watched(bench.device) as row:
        for _ in range(_ROUNDS if bench.on_gpu else 1):
            start = time.perf_counter()
            score_shards(ScoreTask(job, "mosaic", shards))
            seconds.append(time.perf_counter() - start)
    scorer = Scorer.load(job.run.weights("mosaic"))
    some = images.read_many(range(min(len(images), batch)))
    row["images_a_second"] = len(stored) / median(seconds)
    row["of_bare"] = row["images_a_second"] / _bare_rate(bench, scorer, some)
    found.row("from Zarr to Zarr", row)
    if bench.on_gpu:
        found.check("at least 90 % of the bare network", row["of_bare"] >= _TARGET)
    found.check("any order of shards, equal bits", np.array_equal(stored, _scores(job, sha256, shards[::-1])))
    other = _with_another_shard(bench, sha256)
    found.check("another shard size, equal bits", np.array_equal(other, stored[: len(other)]))
    few = images.read_many(range(min(len(images), 2 * batch + 7)))
    places = range(0, len(few), max(1, len(few) // 16))
    alone = np.concatenate([scorer.score(few[place : place + 1], batch) for place in places])
    found.check("alone or among others, equal bits", np.array_equal(alone, stored[: len(few)][list(places)]))
    found.row("another batch", {"largest_difference": _apart(scorer.score(few, max(1, batch // 2)), stored)})
    on_cpu = Scorer.load(job.run.weights("mosaic"), "cpu", torch.get_num_threads()).score(few[:64], batch)
    found.row("against a CPU", {"largest_difference": _apart(on_cpu, stored)})
    found.check("as a CPU scores, nearly", _apart(on_cpu, stored) < _NEAR)


def _scores(job: Job, sha256: str, *tasks: tuple[int, ...]) -> NDArray[np.float32]:
    """Score shards, task by task, and return the stored scores in the order of the candidates."""
    store = CompositeStore.open(job.run.candidates, "mosaic", writable=True)
    count = sum(map(len, tasks)) * job.pipeline.store.shard
    store.extend_scores(job.pipeline, count, sha256)
    for shards in tasks:
        score_shards(ScoreTask(job, "mosaic", shards))
    return np.asarray(store.scores(slice(0, count)))


def _with_another_shard(bench: Bench, sha256: str) -> NDArray[np.float32]:
    """Return the scores of the first candidates in a run of another shard size, a task a shard."""
    shard = bench.scale.shard * 3 // 4
    job = bench.scored_run("other-shards", 2 * shard, shard)
    bench.copy_filter(job)
    return _scores(job, sha256, (1,), (0,))


def _bare_rate(bench: Bench, scorer: Scorer, images: NDArray[np.uint8]) -> float:
    """Return how many images a second the network alone computes, of one batch that lies on the device."""
    network = scorer.network
    pixels = torch.from_numpy(images).to(network.device)
    parts = [pixels] if bench.on_gpu else list(pixels.split(1))  # type: ignore[no-untyped-call]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if bench.on_gpu else scorer.threads)

    def compute() -> None:
        for part in parts:
            network.logits(part)

    try:
        with torch.inference_mode():
            return len(pixels) * rate(compute, bench)
    finally:
        torch.set_num_threads(threads)


def _apart(some: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    return float(np.abs(some - stored[: len(some)]).max())
