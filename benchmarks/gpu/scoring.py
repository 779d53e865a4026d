"""The part that scores on a GPU: the speed relative to the bare network, and whether only the image decides a score."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.filtering import rate
from benchmarks.gpu.part_results import PartResults
from benchmarks.gpu.watching import watched
from synthpipe.build.tasks import Job, ScoreTask, WorkerState, score_shards
from synthpipe.filtering.scoring import Scorer
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.stores import CompositeStore

_ROUNDS = 5
_TARGET = 0.9  # wanted share of the bare network's rate
_NEAR = 0.02  # largest difference of scores between a CPU and a GPU, which rounds convolutions to TF32


def scoring(bench: Bench, found: PartResults) -> None:
    """Score candidates from Zarr to Zarr, and compare the speed with the bare network on images on the device."""
    sha256 = bench.filter.model_sha256
    job, batch = bench.job, bench.scale.batch
    images = SampleReader(array(open_group(job.run.candidates, "mosaic"), "image"))
    shards = tuple(range(len(images) // bench.scale.shard))
    stored = _scores(job, sha256, shards)  # warms up
    worker = WorkerState(job)
    worker.scorer("mosaic")
    seconds = []
    with watched(bench.device) as row:
        for _ in range(_ROUNDS if bench.on_gpu else 1):
            start = time.perf_counter()
            score_shards(worker, ScoreTask("mosaic", shards))
            seconds.append(time.perf_counter() - start)
    scorer = Scorer.load(job.run.weights("mosaic"))
    some = images.read_many(range(min(len(images), batch)))
    row["images_a_second"] = len(stored) / median(seconds)
    row["of_bare"] = row["images_a_second"] / _bare_rate(bench, scorer, some)
    found.row("from Zarr to Zarr", row)
    if bench.on_gpu:
        found.check("at least 90 % of the bare network", row["of_bare"] >= _TARGET)
    found.check("the order of the shards changes no bit", np.array_equal(stored, _scores(job, sha256, shards[::-1])))
    other = _with_another_shard(bench, sha256)
    found.check("the shard size changes no bit", np.array_equal(other, stored[: len(other)]))
    few = images.read_many(range(min(len(images), 2 * batch + 7)))
    indices = range(0, len(few), max(1, len(few) // 16))
    alone = np.concatenate([scorer.score(few[index : index + 1], batch) for index in indices])
    found.check("other images change no bit of a score", np.array_equal(alone, stored[: len(few)][list(indices)]))
    found.row("another batch", {"largest_difference": _apart(scorer.score(few, max(1, batch // 2)), stored)})
    on_cpu = Scorer.load(job.run.weights("mosaic"), "cpu", torch.get_num_threads()).score(few[:64], batch)
    found.row("against a CPU", {"largest_difference": _apart(on_cpu, stored)})
    found.check("scores are close to those of a CPU", _apart(on_cpu, stored) < _NEAR)


def _scores(job: Job, sha256: str, *tasks: tuple[int, ...]) -> NDArray[np.float32]:
    """Score shards, task by task, and return the stored scores in the order of the candidates."""
    store = CompositeStore.open(job.run.candidates, "mosaic", writable=True)
    count = sum(map(len, tasks)) * job.pipeline.store.shard
    store.extend_scores(job.pipeline, count, sha256)
    worker = WorkerState(job)
    for shards in tasks:
        score_shards(worker, ScoreTask("mosaic", shards))
    return np.asarray(store.scores(slice(0, count)))


def _with_another_shard(bench: Bench, sha256: str) -> NDArray[np.float32]:
    """Return the scores of the first candidates in a run with another shard size, with one task per shard."""
    shard = bench.scale.shard * 3 // 4
    job = bench.scored_run("other-shards", 2 * shard, shard)
    bench.copy_filter(job)
    return _scores(job, sha256, (1,), (0,))


def _bare_rate(bench: Bench, scorer: Scorer, images: NDArray[np.uint8]) -> float:
    """Return the images per second of the network alone, on one batch that is already on the device."""
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
