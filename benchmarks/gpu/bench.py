"""The shared inputs of all parts: a folder, runs of composites, a filter, and functions that run commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.scale import Scale
from synthpipe.build import build
from synthpipe.build.tasks import Job
from synthpipe.build.worker_setup import bank_location
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.progress import Silent
from synthpipe.core.records import Image
from synthpipe.filtering.epoch import FilterData
from synthpipe.filtering.training import EpochMetrics, train_filter
from synthpipe.patches.catalog import load_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.filter_report import FilterReport, load_report
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import array, open_group

PIPELINES = Path(__file__).parent.parent.parent / "pipelines"
DEMO = PIPELINES / "demo.yaml"
_SEED = 5


@dataclass(frozen=True)
class Bench:
    """The shared inputs of all parts.

    Each part runs in its own process, and uses the files that earlier parts left in the folder.
    """

    folder: Path
    scale: Scale
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def pipeline(self, candidates: int, shard: int) -> Pipeline:
        """Return the demo's pipeline with unfiltered Mosaics at the scale's size from procedural tissue."""
        scale, patches = self.scale, self.folder / "patches"
        if not patches.exists():
            write_phantom(patches, PhantomSpec(seed=1, slides=6, patches=60, size=scale.canvas, images=0))
        changes = (
            *(f"patches.root={patches}", f"canvas={scale.canvas}", f"mosaic.tile={scale.canvas // 2}", "bezier=null"),
            *("filter.enabled=false", "curation.rule=threshold", f"filter.network={scale.network}"),
            *(f"curation.{key}={candidates}" for key in ("wanted", "candidates", "max_candidates")),
            *(f"filter.batch={scale.batch}", f"filter.epochs={scale.epochs}", "curation.min_classes=1"),
            f"store.shard={shard}",
        )
        return pipeline_file.load(DEMO, changes)

    def scored_run(self, name: str, candidates: int, shard: int) -> Job:
        """Return the job of a run with composites and an enabled filter; build the run if it is missing."""
        pipeline, path = self.pipeline(candidates, shard), self.folder / name
        in_this_process = ClusterSettings(Local(0), device="cpu")  # starting processes takes longer
        build(pipeline, path, in_this_process, Silent())
        run = RunDirectory(path)
        enabled = pipeline.model_copy(update={"filter": pipeline.filter.model_copy(update={"enabled": True})})
        return Job(enabled, run, bank_location(enabled, load_catalog(run.path, enabled.taxonomy), None))

    @cached_property
    def job(self) -> Job:
        """The job of the run with the scale's number of composites."""
        return self.scored_run("run", self.scale.candidates, self.scale.shard)

    @cached_property
    def images(self) -> Image:
        """The composites that train a filter, and the ones that stand for real patches."""
        stored = SampleReader(array(open_group(self.job.run.candidates, "mosaic"), "image"))
        return stored.read_many(range(min(len(stored), 2 * (self.scale.training + self.scale.training // 4))))

    @cached_property
    def filter(self) -> FilterReport:
        """The report of the run's filter, which is trained if it is missing."""
        path = self.job.run.report("mosaic")
        return load_report(path) if path.exists() else self.train_filter(self.folder / "run" / "filter")

    def train_filter(
        self,
        directory: Path,
        on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
        changes: Mapping[str, object] | None = None,
    ) -> FilterReport:
        """Train a filter to distinguish stored Mosaics from other ones that are upside down.

        Parameters
        ----------
        directory : Path
            The folder for weights and report.
        on_epoch : callable, optional
            Called after each epoch.
        changes : mapping, optional
            Settings of the filter to replace.
        """
        half, held = len(self.images) // 2, self.scale.training // 4
        synthetic, real = self.images[:half], np.ascontiguousarray(self.images[half : 2 * half, ::-1])
        data = FilterData(
            synthetic_train=synthetic[held:],
            synthetic_val=synthetic[:held],
            real_train=lambda epoch: real[held:],
            real_val=real[:held],
        )
        settings = self.job.pipeline.filter.model_copy(update=changes)
        return train_filter(settings, "mosaic", data, _SEED, directory, on_epoch)

    def copy_filter(self, job: Job) -> None:
        """Copy the filter to another run."""
        target = Path(str(job.run.filter))
        target.mkdir(exist_ok=True)
        for path in (self.job.run.weights("mosaic"), self.job.run.report("mosaic")):
            shutil.copy(str(path), target)


def command(*arguments: object, ok: bool = True, **environment: str) -> str:
    """Run a command of synthpipe and return its output; it must succeed if `ok`, else it must fail."""
    return python("-m", "synthpipe", *arguments, ok=ok, **environment)


def python(*arguments: object, ok: bool = True, **environment: str) -> str:
    """Run this Python and return its output; it must succeed if `ok`, else it must fail."""
    words = list(map(str, arguments))
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    output = done.stdout + done.stderr
    if (done.returncode == 0) is not ok:
        raise RuntimeError(f"python {' '.join(words)[:200]}: exit {done.returncode}: {output[-2000:]}")
    return output


def options(*changes: str) -> list[str]:
    """Return the options of a command that replace settings."""
    return [part for change in changes for part in ("--set", change)]
