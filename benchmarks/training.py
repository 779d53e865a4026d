"""``python -m benchmarks.training``: measure the speed of the published training in float32 and mixed precision."""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.page import write_result
from synthpipe.build import build
from synthpipe.cli.progress import reporter
from synthpipe.config import pipeline_file
from synthpipe.config.settings_file import load_settings
from synthpipe.curated import CuratedSet
from synthpipe.patches.catalog import read_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.pretrained.devices import choose_device
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.segment.devices import Hardware
from synthpipe.segment.masks import masked_images
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import Composites, RealPatches
from synthpipe.segment.training import train
from synthpipe.segment.training_records import TrainingData
from synthpipe.storage.summary import human_bytes

_PIPELINES = Path(__file__).parent.parent / "pipelines"
PUBLISHED = _PIPELINES / "training" / "published.yaml"
_EVERY = 0.5  # seconds between two readings of the GPU
_PATIENCE = 10  # seconds to wait for nvidia-smi


def prepare(folder: Path, size: int) -> TrainingData:
    """Make procedural patches and unfiltered composites of `size` x `size` pixels; return them as training data."""
    data = folder / "data"
    write_phantom(data, PhantomSpec(seed=1, slides=12, patches=240, size=size, images=1))
    changes = (
        *(f"patches.root={data}", f"canvas={size}", f"mosaic.tile={size // 2}", "filter.enabled=false"),
        *("curation.rule=threshold", "curation.wanted=200", "curation.candidates=200"),
    )
    pipeline = pipeline_file.load(_PIPELINES / "demo.yaml", changes)
    build(pipeline, folder / "run", ClusterSettings(Local(0)), reporter())
    curated = CuratedSet(folder / "run" / "curated.zarr")
    catalog = read_catalog(pipeline.patches, pipeline.taxonomy)
    real = RealPatches(catalog.patches, curated.description)
    sources = {"curated": curated.digest}
    return TrainingData(curated.description, Composites([curated]), real, masked_images(data / "2.validation"), sources)


def measure(settings: TrainSettings, data: TrainingData, folder: Path, readers: int) -> dict[str, Any]:
    """Train; return the report of the training and the GPU's median utilisation in percent."""
    with utilisation() as seen:
        train(settings, data, folder, Hardware(choose_device().type, readers), reporter())
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {**report, "gpu_utilisation": statistics.median(seen) if seen else None}


@contextmanager
def utilisation() -> Iterator[list[float]]:
    """Yield a list that collects the utilisation of torch's first GPU, in percent, every half second of the block."""
    seen: list[float] = []
    program = shutil.which("nvidia-smi")
    if program is None or not torch.cuda.is_available():
        yield seen
        return
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
    ask = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", gpu]
    over = threading.Event()

    def read_utilisation() -> None:
        while not over.wait(_EVERY):
            with suppress(OSError, subprocess.SubprocessError):  # the driver may not answer
                found = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=_PATIENCE)
                if found.stdout.strip().isdigit():  # a partition of a GPU has no utilisation
                    seen.append(float(found.stdout))

    thread = threading.Thread(target=read_utilisation)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table with a row for each precision."""
    yield "| precision | images per second | waiting for data | GPU utilisation | peak GPU memory | device |"
    yield "|---|---|---|---|---|---|"
    for row in rows.values():
        busy = "" if row["gpu_utilisation"] is None else f"{row['gpu_utilisation']:.0f} %"
        memory = "" if row["peak_device_memory"] is None else human_bytes(row["peak_device_memory"])
        rate, waiting = row["images_a_second"], row["waiting_share"]
        yield f"| {row['precision']} | {rate:.1f} | {waiting:.1%} | {busy} | {memory} | {row['device']} |"


@click.command()
@click.option("--size", default=224, show_default=True, help="Height and width of the images.")
@click.option("--steps", default=200, show_default=True, help="Steps of each training; the first ones do not count.")
@click.option("--readers", default=8, show_default=True, help="Processes that prepare batches.")
@click.option("--train-set", multiple=True, metavar="KEY=VALUE", help="Replace a training setting.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the reports to this file as JSON.")
def main(size: int, steps: int, readers: int, train_set: tuple[str, ...], output: Path | None) -> None:
    """Train the published network on procedural tissue, in float32 and mixed precision, and print a table.

    \b
    Examples:
      python -m benchmarks.training
      python -m benchmarks.training --steps 20 --readers 2 --train-set network.encoder=resnet18
    """
    rows = {}
    with tempfile.TemporaryDirectory(prefix="synthpipe-training-") as directory:
        folder = Path(directory)
        data = prepare(folder, size)
        for precision in ("32", "mixed"):
            changes = ("network.weights=null", "epochs=1", f"steps_per_epoch={steps}", f"precision='{precision}'")
            settings = load_settings(TrainSettings, PUBLISHED, (*changes, *train_set))
            rows[precision] = measure(settings, data, folder / precision, readers)
            gc.collect()  # the peak memory of one training must not include the network of the other
    if output:
        write_result(output, rows)
    click.echo("\n".join(table(rows)))


if __name__ == "__main__":
    main()
