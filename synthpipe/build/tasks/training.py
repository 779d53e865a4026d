"""Tasks that check the filter's network and train the filter of one strategy."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synthpipe.build.tasks.job import read_split, training_composites
from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import generator
from synthpipe.compose.view import real_view
from synthpipe.config.pipeline import FilterSection, Pipeline
from synthpipe.core.progress import throttled
from synthpipe.core.records import Image, PatchRef, Strategy
from synthpipe.core.spacing import first_of_parts
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.patches.pixels import read_pixels
from synthpipe.runtime import announce
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore

if TYPE_CHECKING:  # a worker that only renders never loads torch
    from synthpipe.filtering.epoch import FilterData


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """A check that workers have the filter's network and its initial weights."""

    settings: FilterSection

    def __repr__(self) -> str:
        return f"the check of filter.network {self.settings.network}"


@dataclass(frozen=True, slots=True)
class TrainTask:
    """The filter of one strategy; `access` is the result of `Catalog.access`."""

    strategy: Strategy
    access: Mapping[str, str]

    def __repr__(self) -> str:
        return f"training of the {self.strategy} filter"


def check_network(worker: WorkerState, task: NetworkTask) -> None:
    """Raise an error if timm has no such network, or if its weights do not fit, before anything is rendered."""
    from synthpipe.filtering.network import check_start

    check_start(task.settings)


def train(worker: WorkerState, task: TrainTask) -> list[str]:
    """Train the filter of a strategy and announce the steps; store weights and metrics; return notes for the user."""
    from synthpipe.filtering.training import train_filter

    job, strategy = worker.job, task.strategy
    pipeline = job.pipeline
    catalog = load_catalog(job.run.path, pipeline.taxonomy, task.access)
    data = filter_data(pipeline, job.run, catalog, strategy)
    notes: list[str] = []
    with throttled(announce) as on_steps:
        train_filter(
            pipeline.filter, strategy, data, pipeline.seed, job.run.filter, on_note=notes.append, on_steps=on_steps
        )
    return notes


def filter_data(pipeline: Pipeline, run: RunDirectory, catalog: Catalog, strategy: Strategy) -> FilterData:
    """Return the stored composites that train and validate the filter of a strategy, and views of real patches."""
    from synthpipe.filtering.epoch import FilterData

    synthetic = CompositeStore.open(run.training, strategy).images()
    count = training_composites(pipeline)
    real = real_patches(pipeline, catalog, read_split(run))
    held = [read_pixels(patch) for patch in real["train"]]  # every epoch has new views of these patches

    def views(images: Iterable[Image], total: int, epoch: int) -> Image:
        shown = np.empty((total, *pipeline.canvas, 3), np.uint8)
        for number, image in enumerate(images):
            rng = generator(pipeline.seed, strategy, "view", epoch << 32 | number)
            shown[number] = real_view(rng, image, strategy, pipeline)
        return shown

    return FilterData(
        synthetic_train=synthetic.read_many(range(count)),
        synthetic_val=synthetic.read_many(range(count, pipeline.filter.candidates)),
        real_train=lambda epoch: views(held, len(held), 1 + epoch),
        real_val=views(map(read_pixels, real["validation"]), len(real["validation"]), 0),
    )


def training_steps(pipeline: Pipeline, strategy: Strategy) -> int:
    """Return the steps of a filter's training; no epoch has more real patches than composites."""
    settings = pipeline.filter
    return settings.epochs[strategy] * math.ceil(2 * training_composites(pipeline) / settings.batch)


def real_patches(
    pipeline: Pipeline, catalog: Catalog, split: Mapping[str, Collection[str]]
) -> dict[str, list[PatchRef]]:
    """Return the real patches on each side of the filter's split, ``train`` and ``validation``.

    Each side has at most as many patches as composites, evenly spread over the catalog. `split` has each side's groups.
    """
    count = training_composites(pipeline)
    limits = {"train": count, "validation": pipeline.filter.candidates - count}
    sides = {side: [patch for patch in catalog.mixed if patch.group in split[side]] for side in limits}
    return {side: [found[index] for index in first_of_parts(len(found), limits[side])] for side, found in sides.items()}
