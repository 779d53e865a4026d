"""``python -m benchmarks.gpu``: what synthpipe does on a GPU, in a few minutes: how fast, and whether it is right.

Each part measures and checks. A part that fails is reported with its error, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.training import PUBLISHED, utilisation
from synthpipe import pipeline_file
from synthpipe.config import Pipeline
from synthpipe.filtering.scoring import Scorer
from synthpipe.filtering.training import FilterData, train_filter
from synthpipe.patches.catalog import load_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.progress import Silent
from synthpipe.records import Image
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.stages import build
from synthpipe.stages.layout import add_scores
from synthpipe.storage.filter_report import FilterReport
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.shards import read_range
from synthpipe.storage.summary import human_bytes
from synthpipe.tasks import Job, ScoreTask, score_shards
from synthpipe.workplace import place_bank

RESULTS = Path(__file__).parent / "results" / "gpu"
DEMO = Path("pipelines/demo.yaml")
_PACKAGES = ("synthpipe", "torch", "timm", "numpy", "zarr", "dask", "lightning", "segmentation-models-pytorch")


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is: for a GPU, or small enough for a CPU to show that all of it runs."""

    canvas: int = 224
    candidates: int = 8192
    shard: int = 512
    training: int = 2048
    batch: int = 256
    network: str = "resnet18"
    epochs: int = 2
    steps: int = 80
    workers: int = 8
    training_set: tuple[str, ...] = ()
    build_set: tuple[str, ...] = ()


SMALL = Scale(
    canvas=48,
    candidates=96,
    shard=16,
    training=48,
    batch=16,
    network="test_resnet",
    epochs=1,
    steps=12,
    workers=0,
    training_set=("network.encoder=tu-test_resnet", "network.architecture=Unet", "composites=2", "real=2"),
    build_set=(
        *("canvas=32", "mosaic.tile=16", "filter.network=test_resnet", "filter.candidates=40", "filter.epochs=1"),
        *("curation.wanted=12", "curation.candidates=20", "curation.max_candidates=80", "store.shard=8"),
    ),
)
"""With `--cpu`."""


@dataclass
class Bench:
    """What the parts share: a folder, a scale, a device, and a run of unscored Mosaics."""

    folder: Path
    scale: Scale
    device: torch.device
    deadline: float = field(default_factory=lambda: time.monotonic() + 3600)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The demo's pipeline at the scale's size, with donors of procedural tissue."""
        scale, patches = self.scale, self.folder / "patches"
        write_phantom(patches, PhantomSpec(seed=1, slides=6, patches=60, size=scale.canvas, images=0))
        changes = (
            *(f"patches.root={patches}", f"canvas={scale.canvas}", f"mosaic.tile={scale.canvas // 2}", "bezier=null"),
            *("filter.enabled=false", "curation.rule=threshold", f"filter.network={scale.network}"),
            *(f"curation.{key}={scale.candidates}" for key in ("wanted", "candidates", "max_candidates")),
            *(f"filter.batch={scale.batch}", f"filter.epochs={scale.epochs}", "curation.min_classes=1"),
            f"store.shard={scale.shard}",
        )
        return pipeline_file.load(DEMO, changes)

    @cached_property
    def run(self) -> RunDirectory:
        """A finished run of it, without scores."""
        path = self.folder / "run"
        build(self.pipeline, path, ClusterSettings(gpu="never"), Silent())
        return RunDirectory(path)

    @cached_property
    def filter(self) -> FilterReport:
        """The filter of the first part, in the run's folder."""
        return self.train_filter(self.run.filter)

    @property
    def job(self) -> Job:
        """What scoring shares, with a filter."""
        enabled = self.pipeline.filter.model_copy(update={"enabled": True})
        pipeline = self.pipeline.model_copy(update={"filter": enabled})
        catalog = load_catalog(self.run.path, pipeline.taxonomy)
        return Job(pipeline, self.run, place_bank(pipeline, catalog, None))

    def train_filter(self, directory: Path | Any) -> FilterReport:
        """Train the filter on stored Mosaics against others of them, turned upside down."""
        images = SampleReader(array(open_group(self.run.candidates, "mosaic"), "image"))
        count, held = self.scale.training, self.scale.training // 4
        composites: Image = images.read_many(range(min(len(images), 2 * (count + held))))
        half = len(composites) // 2
        synthetic, real = composites[:half], np.ascontiguousarray(composites[half : 2 * half, ::-1])
        data = FilterData(
            synthetic_train=synthetic[held:],
            synthetic_val=synthetic[:held],
            real_train=lambda epoch: real[held:],
            real_val=real[:held],
        )
        return train_filter(self.pipeline.filter, "mosaic", data, 5, directory)

    def command(self, *arguments: object, ok: bool = True, **environment: str) -> str:
        """Run a command of synthpipe, and return what it says; it must succeed, or fail where it is not `ok`."""
        done = subprocess.run(
            [sys.executable, "-m", "synthpipe", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=max(1, self.deadline - time.monotonic()),
            env={**os.environ, **environment},
            check=False,
        )
        if (done.returncode == 0) is not ok:
            raise RuntimeError(
                f"synthpipe {arguments[0]}: exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
            )
        return done.stdout + done.stderr


Part = Callable[[Bench], dict[str, Any]]


def filter_training(bench: Bench) -> dict[str, Any]:
    """Train the filter twice from one seed."""
    first = bench.filter  # makes the run and warms up, so it is not timed
    with utilisation() as seen, peak(bench.device) as most:
        start = time.perf_counter()
        again = bench.train_filter(bench.folder / "again")
        seconds = time.perf_counter() - start
    shown = 2 * again.synthetic_train * len(again.epochs)
    return {
        "images_a_second": shown / seconds,
        "gpu_utilisation": middle(seen),
        "peak_memory": most(),
        "check": {"same seed, same weights": first.model_sha256 == again.model_sha256},
    }


def scoring(bench: Bench) -> dict[str, Any]:
    """Score candidates from Zarr to Zarr, and compare with the bare network on images that lie on the device."""
    job, run, count = bench.job, bench.run, bench.scale.candidates
    shard, batch = job.pipeline.store.shard, bench.scale.batch
    report = bench.filter
    group = open_group(run.candidates, "mosaic", writable=True)
    add_scores(group, job.pipeline, count, report.model_sha256)
    shards = tuple(range(count // shard))
    score_shards(ScoreTask(job, "mosaic", shards[:1]))  # warms up
    with utilisation() as seen, peak(bench.device) as most:
        start = time.perf_counter()
        done, _ = score_shards(ScoreTask(job, "mosaic", shards))
        seconds = time.perf_counter() - start
    stored = np.asarray(read_range(array(group, "p_real"), 0, done))
    score_shards(ScoreTask(job, "mosaic", shards[::-1]))
    turned = np.asarray(read_range(array(group, "p_real"), 0, done))
    scorer = Scorer.load(run.weights("mosaic"))
    few = min(done, 3 * batch + 7)
    some = SampleReader(array(group, "image")).read_many(range(few))
    alone = np.concatenate([scorer.score(some[k : k + 1], batch) for k in range(0, few, max(1, few // 16))])
    rate = bare_rate(bench, scorer, some[: min(few, batch)], seconds)
    return {
        "images_a_second": done / seconds,
        "bare_images_a_second": rate,
        "of_bare": done / seconds / rate,
        "gpu_utilisation": middle(seen),
        "peak_memory": most(),
        "check": {
            "any order, equal bits": bool(np.array_equal(stored, turned)),
            "alone or among others, equal bits": bool(np.array_equal(alone, stored[: few : max(1, few // 16)])),
        },
    }


def bare_rate(bench: Bench, scorer: Scorer, images: Image, seconds: float) -> float:
    """Return how many images a second the network alone computes, of one batch that lies on the device."""
    network = scorer.network
    pixels = torch.from_numpy(images).to(network.device)
    parts = [pixels] if network.device.type == "cuda" else list(pixels.split(1))  # type: ignore[no-untyped-call]
    done = 0
    with torch.inference_mode():
        for part in parts:
            network.logits(part)
        synchronise(bench.device)
        start = time.perf_counter()
        while time.perf_counter() - start < max(1.0, min(seconds, 10.0)):
            for _ in range(8):
                for part in parts:
                    network.logits(part)
                done += len(pixels)
            synchronise(bench.device)
        return done / (time.perf_counter() - start)


def segmentation(bench: Bench) -> dict[str, Any]:
    """Train the published network in float32 and mixed precision."""
    from benchmarks.training import measure, prepare
    from synthpipe.segment.settings import TrainSettings
    from synthpipe.settings_file import load_settings

    data = prepare(bench.folder / "segmentation", bench.scale.canvas)
    rows: dict[str, Any] = {}
    for precision in ("32", "mixed"):
        changes = (
            "network.weights=null",
            "epochs=1",
            f"steps_per_epoch={bench.scale.steps}",
            f"precision='{precision}'",
        )
        settings = load_settings(TrainSettings, PUBLISHED, (*changes, *bench.scale.training_set))
        rows[precision] = measure(settings, data, bench.folder / f"training-{precision}", bench.scale.workers)
    keys = ("precision", "images_a_second", "waiting_share", "gpu_utilisation", "peak_device_memory")
    return {
        "precisions": {name: {key: row[key] for key in keys} for name, row in rows.items()},
        "check": {"waits under 5 % for data": all(row["waiting_share"] < 0.05 for row in rows.values())},
    }


def whole_chain(bench: Bench) -> dict[str, Any]:
    """Build, verify, train, resume, evaluate: the commands of the README, on the GPU."""
    patches, run = bench.folder / "phantom", bench.folder / "demo"
    gpu = "never" if bench.device.type == "cpu" else "require"
    bench.command("phantom", patches, "--patches", 120, "--images", 2)
    sets = options(f"patches.root={patches}", *bench.scale.build_set)
    start = time.perf_counter()
    bench.command("build", DEMO, "-o", run, *sets, "--gpu", gpu)
    seconds = time.perf_counter() - start
    bench.command("verify", run)
    pipeline = pipeline_file.load(DEMO, (f"patches.root={patches}", *bench.scale.build_set))
    shared = bench.folder / "shared"
    gpus = None if bench.device.type == "cpu" else ("0", "0")
    build(pipeline, shared, ClusterSettings(Local(2, gpus=gpus), gpu=gpu), Silent())  # type: ignore[arg-type]
    pixels = [digest_of(path / "curated.zarr") for path in (run, shared)]
    train = ["train", run / "curated.zarr", "--real", patches, "--val", patches / "2.validation", "--set", "epochs=2"]
    train += options("network.weights=null", "steps_per_epoch=12", "save_steps=4", *bench.scale.training_set)
    settings = ["--config", "pipelines/training/demo.yaml"]
    bench.command(*train, *settings, "-o", bench.folder / "whole")
    killed = kill_and_resume(bench, [*train, *settings, "-o", bench.folder / "killed"])
    bench.command("evaluate", bench.folder / "whole" / "best.ckpt", "--data", patches / "3.testing", "-o", run / "test")
    whole, resumed = (losses(bench.folder / name / "steps.csv") for name in ("whole", "killed"))
    return {
        "build_seconds": seconds,
        "largest_difference_of_losses_after_a_kill": float(np.abs(whole - resumed).max()),
        "killed_after_step": killed,
        "check": {
            "two workers on one device, equal bytes": pixels[0] == pixels[1],
            "a killed training resumes": len(whole) == len(resumed),
        },
    }


def options(*changes: str) -> list[str]:
    """Return the options that replace settings."""
    return [part for change in changes for part in ("--set", change)]


def kill_and_resume(bench: Bench, arguments: list[object]) -> int:
    """Kill a training after its first checkpoint, and train to the end; return the step it had reached."""
    folder = Path(str(arguments[-1]))
    process = subprocess.Popen(
        [sys.executable, "-m", "synthpipe", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not (folder / "last.ckpt").exists():
            if time.monotonic() > bench.deadline:
                raise TimeoutError("the training made no checkpoint in time")
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reached = len(losses(folder / "steps.csv"))
    bench.command(*arguments)
    return reached


def full_memory(bench: Bench) -> dict[str, Any]:
    """Let scoring run out of GPU memory: the error must say what to set."""
    if bench.device.type == "cpu":
        return {"check": {}, "note": "a CPU has no memory of its own"}
    code = (
        "import sys, torch; torch.cuda.set_per_process_memory_fraction(0.002); import numpy as np\n"
        "from pathlib import Path; from synthpipe.filtering.scoring import Scorer\n"
        f"Scorer.load(Path({str(bench.run.weights('mosaic'))!r})).score(np.zeros((512, 224, 224, 3), np.uint8), 512)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    return {"message": message, "check": {"names the setting": "filter.batch" in message}}


PARTS: Mapping[str, Part] = {
    "filter training": filter_training,
    "scoring": scoring,
    "full memory": full_memory,
    "whole chain": whole_chain,
    "segmentation": segmentation,
}


def digest_of(store: Path) -> str:
    """Return the SHA-256 of a store's images and masks."""
    found = hashlib.sha256()
    for name in ("image", "mask"):
        for path in sorted((store / name).glob("c.*")):
            found.update(path.read_bytes())
    return found.hexdigest()


def losses(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the loss of each step of a training."""
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else [["loss"]]
    column = rows[0].index("loss")
    return np.array([float(row[column]) for row in rows[1:]])


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def middle(seen: list[float]) -> float | None:
    """Return the median of the GPU's utilisation, in percent."""
    return float(np.median(seen)) if seen else None


@contextmanager
def peak(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Yield what tells the most bytes that the block held on a GPU."""
    if device.type != "cuda":
        yield lambda: None
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device)


def measure_all(bench: Bench, names: tuple[str, ...]) -> dict[str, Any]:
    """Run the parts; one that fails has its error in its place."""
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        if name not in names:
            continue
        if time.monotonic() > bench.deadline:
            found[name] = {"error": "no time was left for it"}
            continue
        click.echo(f"{name} ...", err=True)
        start = time.perf_counter()
        try:
            found[name] = part(bench)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-1500:]}"}
        found[name]["seconds"] = time.perf_counter() - start
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: a row a figure or a check."""
    yield "| part | what | result |"
    yield "|---|---|---|"
    for part, row in found.items():
        if "error" in row:
            yield f"| {part} | failed | {row['error'][:300]} |"
            continue
        for precision, each in row.get("precisions", {}).items():
            yield f"| {part} | {precision} | {'; '.join(_figures(each))} |"
        for line in _figures(row):
            what, _, result = line.partition(": ")
            yield f"| {part} | {what} | {result} |"
        for what, right in row["check"].items():
            yield f"| {part} | {what} | {'yes' if right else 'NO'} |"


def _figures(row: Mapping[str, Any]) -> Iterator[str]:
    for key, value in row.items():
        name = key.replace("_", " ")
        if key.endswith("memory") and value is not None:
            yield f"{name}: {human_bytes(value)}"
        elif key in ("of_bare", "waiting_share"):
            yield f"{name}: {value:.1%}"
        elif isinstance(value, float):
            yield f"{name}: {value:,.3g}" if value < 100 else f"{name}: {value:,.0f}"
        elif isinstance(value, int | str) and key != "precision":
            yield f"{name}: {value}"


@click.command()
@click.option("--cpu", is_flag=True, help="Run everything small on the CPU, as a test.")
@click.option("--part", "parts", multiple=True, type=click.Choice(tuple(PARTS)), help="Only these [all].")
@click.option("--seconds", default=400, show_default=True, help="After so many, no further part begins.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON to write [results/gpu/CARD.json].")
def main(cpu: bool, parts: tuple[str, ...], seconds: int, output: Path | None) -> None:
    """Measure and check what synthpipe does on a GPU, and print a table.

    \b
    Examples:
      python -m benchmarks.gpu
      python -m benchmarks.gpu --part scoring -o scoring.json
      python -m benchmarks.gpu --cpu
    """
    if not cpu and not torch.cuda.is_available():
        raise click.ClickException("torch sees no GPU here; --cpu runs everything small, as a test")
    device = torch.device("cpu" if cpu else "cuda")
    card = "CPU" if cpu else torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory(prefix="synthpipe-gpu-") as place:
        bench = Bench(Path(place), SMALL if cpu else Scale(), device, time.monotonic() + seconds)
        found = measure_all(bench, parts or tuple(PARTS))
    result = {
        "card": card,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "cuda": torch.version.cuda,
        "scale": {name: getattr(bench.scale, name) for name in Scale.__slots__},
        "parts": found,
    }
    target = output or (None if cpu else RESULTS / f"{re.sub(r'[^A-Za-z0-9]+', '-', card)}.json")
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo("\n".join(table(found)))
    wrong = [name for name, row in found.items() if "error" in row or not all(row["check"].values())]
    if wrong:
        raise click.ClickException(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
