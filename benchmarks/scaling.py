"""``python -m benchmarks.scaling``: measure the driver's time for tasks and verdicts, and estimate large runs."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from distributed import Security

from benchmarks.page import RESULTS, write_result
from synthpipe.build.candidates import judge_plan
from synthpipe.build.curated_set import write_verdicts
from synthpipe.build.state import BuildState
from synthpipe.build.tasks import Job, ShardTask
from synthpipe.compose import donor_uses
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.progress import Silent
from synthpipe.core.records import PatchRef
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.shared_bank import BankLocation
from synthpipe.runtime import ClusterSettings, Demand, Executor, Local, local, open_executor
from synthpipe.runtime.cluster import open_cluster
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import (
    CANDIDATE_ARRAYS,
    CURATED_ARRAYS,
    SCORE_ARRAYS,
    VERDICT_ARRAYS,
    array,
    open_group,
    written_arrays,
)
from synthpipe.storage.shard_writing import write_shard
from synthpipe.storage.stores import CompositeStore
from synthpipe.storage.summary import human_bytes

RESULT = RESULTS / "scaling" / "tasks.json"
PAGE = Path("docs/scaling.md")
_PIPELINE = Path(__file__).parent.parent / "pipelines" / "wsss4luad.yaml"
_POINTS = 10  # readings of the memory
_TASKS_A_JUDGED_SHARD = 100  # verdicts are measured with one shard for so many tasks
_DONORS = 10_000

_COMPOSITES, _CORES, _GPUS = 100_000_000, 1000, 8
_SHARDS = (512, 1024, 2048, 4096, 8192)
_SUMMED = 2048  # the shard size of the estimated total
_SCORES = 2000.0  # composites per second that one GPU scores: assumed, not measured
_DISK = 10e9  # bytes per second that a parallel file system writes: assumed
_LATENCY, _REQUESTS = 0.04, 10  # seconds per request to an object store, and concurrent requests: assumed


def no_work(worker: object, task: ShardTask) -> int:
    """Return the result of a render task without rendering."""
    return task.shard


def measure(count: int, workers: int) -> dict[str, Any]:
    """Run `count` tasks without work; return the seconds, and the driver's CPU seconds and resident memory."""
    memory = []
    with open_cluster(ClusterSettings(Local(workers)), Demand(), lambda message: None) as cluster:
        tasks = (ShardTask("mosaic", "candidate", number) for number in range(count))
        start, cpu = time.perf_counter(), time.process_time()
        for done, _ in enumerate(cluster.run(no_work, tasks), 1):
            if done % (count // _POINTS) == 0:
                memory.append({"tasks": done, "resident_bytes": _resident()})
        return {
            "tasks": count,
            "workers": workers,
            "seconds": time.perf_counter() - start,
            "driver_cpu_seconds": time.process_time() - cpu,
            "memory": memory,
        }


def measure_encryption(count: int, workers: int, rounds: int) -> list[dict[str, Any]]:
    """Return the seconds of a cluster's start and of `count` tasks, in turn with TLS and without it."""
    found = []
    for _ in range(rounds):
        for encrypted in (True, False):
            with nullcontext() if encrypted else patch.object(local, "encrypted", _plain):
                start = time.perf_counter()
                ready, run = _timed_tasks(count, workers)
                found.append({"encrypted": encrypted, "start_seconds": ready - start, **run})
    return found


def _timed_tasks(count: int, workers: int) -> tuple[float, dict[str, float]]:
    with open_cluster(ClusterSettings(Local(workers)), Demand(), lambda message: None) as cluster:
        cluster.client.wait_for_workers(workers)
        ready, cpu = time.perf_counter(), time.process_time()
        tasks = (ShardTask("mosaic", "candidate", number) for number in range(count))
        for _ in cluster.run(no_work, tasks):
            pass
        seconds, cpu = time.perf_counter() - ready, time.process_time() - cpu
        return ready, {"task_seconds": seconds / count, "task_cpu_seconds": cpu / count}


def _plain() -> dict[str, Any]:
    return {"host": "127.0.0.1", "protocol": "tcp://", "security": Security()}


def measure_verdicts(shards: int) -> list[dict[str, Any]]:
    """Judge `shards` shards of candidates of each size and store the verdicts; return the seconds of each size."""
    with open_executor(ClusterSettings(Local(0)), Demand(), lambda message: None) as executor:
        return [_judged(executor, size, shards) for size in _SHARDS]


def _judged(executor: Executor, size: int, shards: int) -> dict[str, Any]:
    count = size * shards
    keep_all = [f"curation.{key}={count}" for key in ("wanted", "candidates", "max_candidates")]
    pipeline = pipeline_file.load(_PIPELINE, [f"store.shard={size}", *keep_all])
    donors = tuple(PatchRef(f"{number:05}", "", "", (0,), 1, 1, "") for number in range(_DONORS))
    with tempfile.TemporaryDirectory() as folder:
        job = Job(pipeline, RunDirectory(Path(folder)), BankLocation("none"))
        state = BuildState(job, Catalog(donors), executor, Silent(), {"stages": {}, "strategies": {}})
        uses = donor_uses(pipeline, "mosaic")
        store = CompositeStore.create(job.run.candidates, pipeline, "mosaic", "candidate", count, uses)
        store.extend_scores(pipeline, count, "none")
        group = open_group(job.run.candidates, "mosaic", writable=True)
        rng, pixels = np.random.default_rng(0), pipeline.canvas[0] * pipeline.canvas[1]
        small = {
            "p_real": rng.uniform(0.6, 1, size).astype(np.float32),
            "class_pixels": rng.multinomial(pixels, [0.3, 0.3, 0.3, 0.1], size).astype(np.int32),
            "donors": rng.integers(0, _DONORS, (size, uses), dtype=np.int32),
        }
        for name, samples in small.items():
            target = array(group, name)
            for shard in range(shards):
                write_shard(target, shard, samples)
        start = time.perf_counter()
        found = judge_plan(state, "mosaic", count, time.monotonic())
        judged = time.perf_counter()
        write_verdicts(state, "mosaic", found.verdicts)
        return {
            "shard": size,
            "shards": shards,
            "judging_seconds": judged - start,
            "writing_seconds": time.perf_counter() - judged,
        }


def _resident() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def write_page(result: Path = RESULT) -> str:
    """Return the page: its text, the stored measurement, and estimates with the rates of `benchmarks`."""
    found = json.loads(result.read_text(encoding="utf-8"))
    text = (Path(__file__).parent / "scaling.md").read_text(encoding="utf-8").rstrip()
    return "\n".join([text, "", *_measured(found), *_encryption(found), *_estimate(found)]).rstrip() + "\n"


def _measured(found: Mapping[str, Any]) -> Iterator[str]:
    rate, cpu = found["tasks"] / found["seconds"], 1e3 * found["driver_cpu_seconds"] / found["tasks"]
    sizes = [point["resident_bytes"] for point in found["memory"]]
    yield (
        f"{found['tasks']:,} tasks on {found['workers']} local workers took {found['seconds']:.0f} s: {rate:.0f} per "
        f"second, {cpu:.2f} ms of the driver's CPU per task. The driver's resident memory:"
    )
    yield from ("", "| tasks done | resident memory |", "|---|---|")
    yield from (f"| {point['tasks']:,} | {human_bytes(point['resident_bytes'])} |" for point in found["memory"])
    yield from ("", f"From the first row to the last: {sizes[-1] / sizes[0] - 1:+.1%}.", "")


def _encryption(found: Mapping[str, Any]) -> Iterator[str]:
    rounds, rows = found["encryption"], []
    names = {
        "start_seconds": ("start of the cluster", 1, "s"),
        "task_seconds": ("time per task", 1e3, "ms"),
        "task_cpu_seconds": ("driver's CPU per task", 1e3, "ms"),
    }
    for key, (what, scale, unit) in names.items():
        tls, plain = ([each[key] for each in rounds if each["encrypted"] is kind] for kind in (True, False))
        ratio = median(first / second for first, second in zip(tls, plain, strict=True))
        rows.append(f"| {what} | {scale * median(tls):.2f} {unit} | {scale * median(plain):.2f} {unit} | {ratio:.2f} |")
    yield from (
        "## Cost of encryption",
        "",
        "The processes of a local cluster use TLS, because other users of the machine can reach its ports. The table "
        f"has medians of {len(rounds) // 2} rounds, with TLS and without in turn, and the median ratio of a round:",
        "",
        "| | with TLS | without | ratio |",
        "|---|---|---|---|",
        *rows,
        "",
        "These connections carry no pixels: workers read and write pixels themselves.",
        "",
    )


def _estimate(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield an estimate of the time of a very large run, from the measurement and the stored rates."""
    pipeline = pipeline_file.load(_PIPELINE)
    rates, size = _stage_rates(), _bytes(pipeline)
    busy = sum(_COMPOSITES / 2 / rate for rate in rates.values())  # core seconds
    scored = _COMPOSITES / _SCORES / _GPUS / 3600
    verdicts = {
        each["shard"]: (each["judging_seconds"] + each["writing_seconds"]) / each["shards"]
        for each in found["verdicts"]
    }
    height, width = pipeline.canvas
    yield from (
        f"## {_COMPOSITES:,} composites on {_CORES:,} cores and {_GPUS} GPUs",
        "",
        f"Half of the composites are Mosaic and half Bezier, with {height} x {width} pixels. The rates of a worker's "
        f"whole task on one core are in [performance.md](performance.md): {rates['mosaic']:,.0f} and "
        f"{rates['bezier']:,.0f} composites per second. So the rendering needs {busy / 3600:.1f} core hours, or "
        f"{busy / _CORES:.0f} s on {_CORES:,} cores, if the scheduler could keep all of them busy. The composites have "
        f"{_COMPOSITES * size / 1e12:.0f} TB: a file system that writes {_DISK / 1e9:.0f} GB per second needs "
        f"{_COMPOSITES * size / _DISK / 60:.0f} minutes for them. GPUs that score {_SCORES:,.0f} composites per second "
        f"each (an assumption: use your own figure) need {scored:.1f} hours.",
        "",
        "| shard | shards | bytes per shard | objects | seconds per task | scheduling | busy cores | verdicts |",
        "|---|---|---|---|---|---|---|---|",
    )
    per_task = found["driver_cpu_seconds"] / found["tasks"]
    for shard in _SHARDS:
        shards = _COMPOSITES // shard
        task = busy / shards
        cells = (
            *(f"{shard}", f"{shards:,}", human_bytes(shard * size), f"{shards * _objects():,}", f"{task:.2f}"),
            *(
                f"{shards * per_task / 60:.1f} min",
                f"{task / per_task:.0f}",
                f"{shards * verdicts[shard] / 60:.1f} min",
            ),
        )
        yield f"| {' | '.join(cells)} |"
    yield from _remarks(verdicts, found["verdicts"][0]["shards"])
    yield from _total(size, scored, _COMPOSITES / _SUMMED * verdicts[_SUMMED] / 3600)


def _objects() -> int:
    """Return the number of objects in a shard of candidates."""
    return len(CANDIDATE_ARRAYS) + len(SCORE_ARRAYS) + len(VERDICT_ARRAYS)


def _remarks(verdicts: Mapping[int, float], measured: int) -> Iterator[str]:
    """Yield an explanation of the table's columns, given the seconds of the verdicts by shard size."""
    yield from (
        "",
        "*Scheduling* is the driver's CPU time for the rendering tasks; scoring needs as much again. *Busy cores* is "
        "the number of cores that the scheduler can keep busy. If you have more cores, some of them wait. A larger "
        "`store.shard` raises this number, because a task that is twice as long keeps twice as many cores busy. A "
        "larger shard needs fewer inodes, but a lost worker or a damaged object costs more repeated work. A shard of "
        f"candidates has {_objects()} objects. A worker's memory does not depend on the shard. For more cores, run "
        "several builds, each with its own seed and scheduler.",
        "",
        "*Verdicts* is the time of the driver's own work, while workers wait. It reads scores and donors once and "
        f"class pixels twice, and writes the verdicts. From the cache of a local disk, this took "
        f"{1e3 * verdicts[_SHARDS[0]]:.1f} ms per shard of {_SHARDS[0]} and {1e3 * verdicts[_SHARDS[-1]]:.1f} ms per "
        f"shard of {_SHARDS[-1]}, measured with {measured:,} shards of each size. Behind a URL, verdicts need five "
        f"requests per shard of any size: {5e3 * _LATENCY / _REQUESTS:.0f} ms if a request takes "
        f"{1e3 * _LATENCY:.0f} ms and {_REQUESTS} run at a time (assumptions). Each longer plan repeats the reading. "
        "The report at the end reads the same arrays once more; the table does not include this.",
        "",
    )


def _total(size: int, scored: float, judged: float) -> Iterator[str]:
    """Yield the total time, given the bytes of a composite and the hours of scoring and verdicts."""
    disk, arrays = 3 * _COMPOSITES * size / _DISK / 3600, len(written_arrays(CURATED_ARRAYS, "stored", recipes=True))
    yield from (
        "The curated set is a copy of the kept composites. A copy of all candidates has "
        f"{_COMPOSITES * size / 1e12:.0f} TB and {arrays} more objects per shard, and takes the disk "
        f"{_COMPOSITES * size / _DISK / 60:.0f} minutes to read and as many to write. A copy of a tenth of the "
        f"candidates needs a tenth of this. With all candidates kept, the total is {disk + scored + judged:.1f} hours: "
        f"{disk:.1f} for the disk, which writes candidates and copies them, {scored:.1f} for the GPUs, and "
        f"{60 * judged:.0f} minutes for the verdicts. The scheduler works while the disk writes. This estimate is for "
        f"shards of {_SUMMED}; larger shards need no more time.",
        "",
        "With `store.pixels: virtual`, the disk stores only the donors and some bytes per composite, so the total is "
        f"{scored + judged:.1f} hours. Reading renders the pixels, so a training needs enough cores to render its "
        "composites ([virtual.md](virtual.md)).",
        "",
    )


def _stage_rates() -> dict[str, float]:
    results = json.loads((RESULTS / "crc.json").read_text(encoding="utf-8"))
    found = {row["what"]: row["rate"]["median"] for row in results["rows"]}
    return {strategy: float(found[f"{strategy} into Zarr"]) for strategy in ("mosaic", "bezier")}


def _bytes(pipeline: Pipeline) -> int:
    """Return the average stored bytes of a composite's image and mask."""
    height, width = pipeline.canvas
    results = json.loads((RESULTS / "crc.json").read_text(encoding="utf-8"))
    share = next(each["size"] for each in results["codecs"] if (each["kind"], each["codec"]) == ("mask", "blosc-lz4"))
    return int(height * width * (3 + share))


@click.command()
@click.option("--tasks", default=100_000, show_default=True, help="Number of tasks without work.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(tasks: int, workers: int, output: Path, page: Path) -> None:
    """Measure the driver's time for tasks without work and for verdicts; write a JSON file and PAGE."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
    found = {
        **measure(tasks, workers),
        "encryption": measure_encryption(max(50, tasks // 100), workers, min(7, 1 + tasks // 10_000)),
        "verdicts": measure_verdicts(max(1, tasks // _TASKS_A_JUDGED_SHARD)),
    }
    write_result(output, found)
    page.write_text(write_page(output), encoding="utf-8")
    click.echo(f"{output}\n{page}")


if __name__ == "__main__":
    main()
