"""The measurements: each function yields rows of the table, in the order in which composites are processed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch.utils.data import DataLoader

from benchmarks.baselines import PngDataset, render_from_files, write_durably, write_files
from benchmarks.measure import Rate, Subject, one_core, rates, ratios
from benchmarks.memory import of_this_process
from benchmarks.reference import render_plainly
from synthpipe.build.tasks import Job, ShardTask, WorkerState, render_shard
from synthpipe.compose import Donors, donor_uses, render, render_block, sample, sample_block
from synthpipe.config.pipeline import Codec, Pipeline
from synthpipe.core.records import STRATEGIES, Mask, Strategy
from synthpipe.core.resizing import fit_packed
from synthpipe.curated import CuratedSet
from synthpipe.files.locations import Location
from synthpipe.patches.bank import bank_bytes, build_bank, open_bank
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.pixels import read_pixels
from synthpipe.patches.shared_bank import BankLocation
from synthpipe.runtime import ClusterSettings, DaskExecutor, Demand, Local
from synthpipe.runtime.cluster import open_cluster
from synthpipe.storage.chunks import CHECKSUM_BYTES, ChunkCodec, checksum
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import CANDIDATE_ARRAYS, array, open_group
from synthpipe.storage.shards import object_path
from synthpipe.storage.stores import CompositeStore

_RECIPES = 512
_BLOCK = 32  # composites that workers sample before they render


@dataclass(frozen=True, slots=True)
class Bench:
    """The inputs of all measurements: a pipeline, donors in a bank and as PNG files, and a folder to write into."""

    pipeline: Pipeline
    catalog: Catalog
    scratch: Path
    rounds: int

    @property
    def bank(self) -> BankLocation:
        return BankLocation("bench", self.scratch)

    def job(self, name: str, pipeline: Pipeline | None = None) -> Job:
        return Job(pipeline or self.pipeline, RunDirectory(self.scratch / name), self.bank)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table of results."""

    what: str
    rate: Rate
    ratios: dict[str, float]
    target: str


def open_bench(pipeline: Pipeline, catalog: Catalog, scratch: Path, rounds: int) -> Bench:
    """Decode the donors into a bank, and write them as PNG files for the baselines; return the inputs."""
    bench = Bench(pipeline, catalog, scratch, rounds)
    bench.bank.directory.mkdir(mode=0o700, parents=True)
    background = pipeline.taxonomy.background
    fit = partial(fit_packed, size=pipeline.canvas) if pipeline.bezier else None
    build_bank(bench.bank.directory, catalog.donors, pipeline.glass, background, lambda: None, os.cpu_count() or 1, fit)
    (scratch / "png").mkdir()
    patches = []
    for number, patch in enumerate(catalog.donors):
        path = scratch / "png" / f"{number}.png"
        PillowImage.fromarray(read_pixels(patch)).save(path)
        patches.append(replace(patch, path=str(path)))
    return replace(bench, catalog=replace(catalog, patches=tuple(patches)))


def rendering(bench: Bench) -> Iterator[Row]:
    """Measure rendering on one core, against the OpenCV reference, files, and copies of finished arrays."""
    donors = Donors(*open_bank(bench.bank.directory))
    # OpenCV needs separate images, not packed pixels
    planes = Donors(replace(donor, image=donor.image.copy(), mask=_copy(donor.mask)) for donor in donors)
    patches = {patch.id: patch for patch in bench.catalog.patches}
    canvas = bench.pipeline.canvas
    image, mask = np.zeros((*canvas, 3), np.uint8), np.zeros(canvas, np.uint8)
    finished = np.zeros((8, *canvas, 3), np.uint8), np.zeros((8, *canvas), np.uint8)

    def copy() -> None:
        for number in range(_RECIPES):
            np.copyto(image, finished[0][number % 8])
            np.copyto(mask, finished[1][number % 8])

    images, masks = np.empty((_BLOCK, *image.shape), np.uint8), np.empty((_BLOCK, *mask.shape), np.uint8)
    targets = {"mosaic": "2,000", "bezier": "10,000"}
    for strategy in bench.pipeline.strategies:
        recipes = [sample(bench.pipeline, strategy, index, donors) for index in range(_RECIPES)]
        few = recipes[: _RECIPES // 16]

        def ours(recipes: Sequence[Any] = recipes) -> None:
            for recipe in recipes:
                render(recipe, donors, image, mask)

        def drawn(strategy: Strategy = strategy) -> None:
            for start in range(0, _RECIPES, _BLOCK):
                block = sample_block(bench.pipeline, strategy, range(start, start + _BLOCK), donors)
                render_block(block, images, masks)

        def plain(recipes: Sequence[Any] = recipes) -> None:
            for recipe in recipes:
                render_plainly(recipe, planes)

        def files(recipes: Sequence[Any] = few) -> None:
            for recipe in recipes:
                render_from_files(recipe, patches)

        with one_core():
            found = rates(
                {
                    "ours": Subject(_RECIPES, ours),
                    "drawn": Subject(_RECIPES, drawn),
                    "plain": Subject(_RECIPES, plain),
                    "files": Subject(len(few), files),
                    "copy": Subject(_RECIPES, copy),
                },
                bench.rounds,
            )
        beside = {"(a) files": "files", "OpenCV form": "plain", "(b) copy": "copy"}
        for what, name in ((f"render {strategy}", "ours"), (f"sample and render {strategy}", "drawn")):
            yield Row(
                what, found[name], {key: ratios(found[name], found[k]) for key, k in beside.items()}, targets[strategy]
            )


def storing(bench: Bench) -> Iterator[Row]:
    """Measure the whole task of a worker on one core: sample, render, encode, and store shards durably."""
    donors = Donors(*open_bank(bench.bank.directory))
    patches = {patch.id: patch for patch in bench.catalog.patches}
    shard = bench.pipeline.store.shard
    targets = {"mosaic": "1,200 and, of (c), 0.7 where the disk limits", "bezier": "of (c) 0.7"}
    (bench.scratch / "files").mkdir(exist_ok=True)
    for strategy in bench.pipeline.strategies:
        job = bench.job(f"store-{strategy}")
        _create(job, strategy, shard)
        worker, task = WorkerState(job), ShardTask(strategy, "candidate", 0)
        render_shard(worker, task)
        group = open_group(job.run.candidates, strategy)
        paths = [object_path(array(group, name), 0) for name in CANDIDATE_ARRAYS]
        data = {bench.scratch / "files" / f"bare-{number}": path.read_bytes() for number, path in enumerate(paths)}

        def stage(worker: WorkerState = worker, task: ShardTask = task) -> None:
            render_shard(worker, task)

        def write(data: Mapping[Path, bytes] = data) -> None:
            for path, payload in data.items():
                write_durably(path, payload)

        # the previous files are removed first, so that both programs get pages that are already in memory
        def remove(paths: Iterable[Location] = paths) -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        def remove_bare(paths: Iterable[Path] = tuple(data)) -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        few = shard // 16

        def files(strategy: Strategy = strategy, few: int = few) -> None:
            for index in range(few):
                recipe = sample(bench.pipeline, strategy, index, donors)
                write_files(render_from_files(recipe, patches), bench.scratch / "files")

        with one_core():
            cv2.setNumThreads(1)
            found = rates(
                {
                    "ours": Subject(shard, stage, remove),
                    "bare": Subject(shard, write, remove_bare),
                    "files": Subject(few, files),
                },
                bench.rounds,
            )
        beside = {"(a) files": "files", "(c) bare write": "bare"}
        shares = {key: ratios(found["ours"], found[name]) for key, name in beside.items()}
        yield Row(f"{strategy} into Zarr", found["ours"], shares, targets[strategy])


def workers(bench: Bench) -> Iterator[Row]:
    """Measure the same task on a Dask cluster with two workers, against one worker."""
    shard = bench.pipeline.store.shard
    for strategy in bench.pipeline.strategies:
        shards = 16 if strategy == "mosaic" else 24
        runs: dict[int, list[float]] = {1: [], 2: []}
        fresh = iter(range(10**6))
        for number in range(bench.rounds):
            for count in (1, 2) if number % 2 else (2, 1):
                runs[count].append(
                    _cluster_rate(bench, strategy, shards * count, count, f"workers-{next(fresh)}") * shard
                )
        one, two = Rate(tuple(runs[1])), Rate(tuple(runs[2]))
        yield Row(f"{strategy} into Zarr, two workers", two, {"one worker": ratios(two, one)}, "of one worker 1.85")


def reading(bench: Bench) -> Iterator[Row]:
    """Measure reading a curated set on one core: single samples and batches in random order, and all in order."""
    job = bench.job("reading")
    path = _curated(bench, job)
    curated = CuratedSet(path)
    dataset, group = curated.to_torch(), open_group(path)
    count, few = len(curated), len(curated) // 8
    order = np.random.default_rng(0).permutation(count).tolist()
    directory = bench.scratch / "reading-png"
    _write_pngs(curated, directory)
    images, masks = array(group, "image"), array(group, "mask")
    chunks = [chunk for part in (images, masks) for chunk in _chunks(part)]

    def single() -> None:
        for index in order:
            dataset[index]

    def batches() -> None:
        loader = DataLoader(dataset, 32, sampler=order, collate_fn=dataset.collate)
        for _ in loader:
            pass

    def png() -> None:
        for _ in DataLoader(PngDataset(directory, count), 32, sampler=order[:few]):
            pass

    def with_zarr() -> None:
        for index in order[:few]:
            images[index], masks[index]

    block = np.empty((32, *curated.size, 3), np.uint8), np.empty((32, *curated.size), np.uint8)

    def scan() -> None:
        for start in range(0, count, 32):
            indices = range(start, min(start + 32, count))
            curated.read(indices, block[0][: len(indices)], block[1][: len(indices)])

    with one_core():
        found = rates(
            {
                "single": Subject(count, single),
                "batches": Subject(count, batches),
                "png": Subject(few, png),
                "zarr": Subject(few, with_zarr),
                "scan": Subject(count, scan),
                "decode": Subject(count, partial(_decode, chunks)),
            },
            bench.rounds,
        )
    beside = {"(d) PNG DataLoader": "png", "(d) zarr-python": "zarr"}
    for what, name in (("random samples, torch Dataset", "single"), ("random batches of 32, DataLoader", "batches")):
        shares = {key: ratios(found[name], found[k]) for key, k in beside.items()}
        yield Row(what, found[name], shares, "5,000, and 8 times both")
    yield Row("sequential scan", found["scan"], {"decoding alone": ratios(found["scan"], found["decode"])}, "0.8")


def codecs(bench: Bench) -> Iterator[dict[str, Any]]:
    """Measure every codec of images and masks on one core: size, writing and reading of Mosaics."""
    shard = bench.pipeline.store.shard
    for kind in ("image", "mask"):
        for codec in get_args(Codec):
            store = bench.pipeline.store.model_copy(update={f"{kind}_codec": codec})
            pipeline = bench.pipeline.model_copy(update={"store": store})
            job = bench.job(f"codec-{kind}-{codec}", pipeline)
            _create(job, "mosaic", shard * (bench.rounds + 1))
            numbers = iter(range(bench.rounds + 1))
            dataset: list[Any] = []
            worker = WorkerState(job)

            def write(worker: WorkerState = worker, numbers: Iterator[int] = numbers) -> None:
                render_shard(worker, ShardTask("mosaic", "candidate", next(numbers)))

            def read(job: Job = job, dataset: list[Any] = dataset, kind: str = kind) -> None:
                from synthpipe.storage.samples import SampleReader

                reader = SampleReader(array(open_group(job.run.candidates, "mosaic"), kind))
                for index in np.random.default_rng(0).permutation(shard).tolist():
                    reader[index]

            with one_core():
                cv2.setNumThreads(1)
                _ = worker.donors  # maps the bank
                found = rates({"write": Subject(shard, write), "read": Subject(shard, read)}, bench.rounds)
            stored = object_path(array(open_group(job.run.candidates, "mosaic"), kind), 0)
            whole = shard * np.prod(pipeline.canvas) * (3 if kind == "image" else 1)
            yield {
                "kind": kind,
                "codec": codec,
                "size": stored.stat().st_size / float(whole),
                "stage": found["write"].to_json(),
                "read": found["read"].to_json(),
            }


def driver_memory(bench: Bench, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Build a run of small Beziers for each count of composites; return the driver's peak memory of each."""
    found = []
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.driver", str(count), str(bench.scratch / f"driver-{count}")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
    return found


def worker_memory(bench: Bench) -> dict[str, Any]:
    """Return the memory of worker processes after rendering, and the part of it that they share."""
    shard = bench.pipeline.store.shard
    job = bench.job("memory")
    _create(job, "mosaic", 8 * shard)
    with _cluster(job, 2) as cluster:
        for _ in cluster.run(render_shard, [ShardTask("mosaic", "candidate", n) for n in range(8)]):
            pass
        processes = cluster.client.run(of_this_process, str(bench.bank.directory))
    canvas = bench.pipeline.canvas if bench.pipeline.bezier else None
    return {"bank_bytes": bank_bytes(bench.catalog.donors, canvas), "processes": list(processes.values())}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A worker setup that opens the donor bank of the benchmark."""

    job: Job

    @property
    def key(self) -> str:
        return self.job.bank.name

    def problems(self) -> list[str]:
        return []

    @contextmanager
    def prepared(self, on_steps: Callable[[int], None]) -> Iterator[WorkerState]:
        """Keep the bank: it is removed with the benchmark's folder."""
        cv2.setNumThreads(1)
        state = WorkerState(self.job)
        _ = state.donors  # maps the bank
        yield state


@contextmanager
def _cluster(job: Job, workers: int) -> Iterator[DaskExecutor]:
    with (
        open_cluster(ClusterSettings(Local(workers)), Demand(), lambda message: None) as cluster,
        cluster.prepared(Prepared(job), lambda steps: None),
    ):
        yield cluster


def _write_pngs(curated: CuratedSet, directory: Path) -> None:
    directory.mkdir()
    for index, stored in enumerate(curated):
        PillowImage.fromarray(stored.image).save(directory / f"{index}.png")
        PillowImage.fromarray(stored.mask).save(directory / f"{index}-mask.png")


def _copy(mask: Mask | None) -> Mask | None:
    return None if mask is None else mask.copy()


def _create(job: Job, strategy: Strategy, count: int) -> None:
    """Make the arrays of `count` candidates."""
    uses = donor_uses(job.pipeline, strategy)
    CompositeStore.create(job.run.candidates, job.pipeline, strategy, "candidate", count, uses)


def _cluster_rate(bench: Bench, strategy: Strategy, shards: int, count: int, name: str) -> float:
    """Return the shards per second of a warm cluster, which has made the same shards before."""
    job = bench.job(name)
    _create(job, strategy, shards * bench.pipeline.store.shard)
    tasks = [ShardTask(strategy, "candidate", number) for number in range(shards)]
    with _cluster(job, count) as cluster:
        for _ in cluster.run(render_shard, tasks):
            pass
        for path in job.run.candidates.rglob("c.*"):
            path.unlink()
        start = time.perf_counter()
        for _ in cluster.run(render_shard, tasks):
            pass
        spent = time.perf_counter() - start
    shutil.rmtree(str(job.run.path))
    return shards / spent


def _curated(bench: Bench, job: Job) -> Location:
    """Build a small curated set without a filter, and return its path."""
    from synthpipe.build import build
    from synthpipe.cli.progress import LogReporter

    wanted = dict.fromkeys(STRATEGIES, 768)
    curation = bench.pipeline.curation.model_copy(update={"wanted": wanted, "max_candidates": wanted, "min_classes": 1})
    disabled = bench.pipeline.filter.model_copy(update={"enabled": False})
    build(
        bench.pipeline.model_copy(update={"curation": curation, "filter": disabled}),
        job.run.path,
        ClusterSettings(),
        LogReporter(),
    )
    return job.run.curated


def _chunks(part: zarr.Array[Any]) -> Iterator[tuple[NDArray[np.uint8], ChunkCodec, tuple[int, ...]]]:
    """Yield the stored bytes of every sample, including the checksum, with its codec and its shape."""
    codec, size = ChunkCodec.of(part), part.shards[0]  # type: ignore[index]
    for shard in range(-(-part.shape[0] // size)):
        path = object_path(part, shard)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        index = data[-16 * size - CHECKSUM_BYTES : -CHECKSUM_BYTES].view("<u8").reshape(-1, 2)
        for offset, length in index[: part.shape[0] - shard * size].tolist():
            yield data[offset : offset + length], codec, part.shape[1:]


def _decode(chunks: Iterable[tuple[NDArray[np.uint8], ChunkCodec, tuple[int, ...]]]) -> None:
    """Verify and decode chunks into one array for each codec."""
    outs: dict[int, NDArray[np.uint8]] = {}
    for stored, codec, shape in chunks:
        payload = stored[:-CHECKSUM_BYTES]
        if checksum(payload) != stored[-CHECKSUM_BYTES:].tobytes():
            raise ValueError("a chunk is damaged")
        if id(codec) not in outs:
            outs[id(codec)] = np.empty(shape, np.uint8)
        codec.decode(payload, outs[id(codec)])


SUBJECTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "rendering": rendering,
    "storing": storing,
    "workers": workers,
    "reading": reading,
}
