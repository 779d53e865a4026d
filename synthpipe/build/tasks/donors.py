"""Tasks that store the donors of a virtual curated set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from synthpipe.build.tasks.worker_state import WorkerState
from synthpipe.compose import Donors
from synthpipe.config.pipeline import GlassSection, Pipeline
from synthpipe.core.records import Donor, PackedPixels
from synthpipe.storage.donors import PIXELS_IN_SHARD, DonorStore, DonorTable
from synthpipe.storage.schema import DONORS


@dataclass(frozen=True, slots=True)
class DonorTask:
    """One shard of the donors' pixels; `table` lists the donors in the order of storage."""

    table: DonorTable
    shard: int

    def __repr__(self) -> str:
        return f"shard {self.shard} of the donors of the curated set"


def write_donors(worker: WorkerState, task: DonorTask) -> int:
    """Store a shard of the donors' pixels; return its number."""
    store = DonorStore.open(worker.job.run.curated, DONORS, writable=True)
    start = task.shard * PIXELS_IN_SHARD
    parts = list(_parts(worker.donors, task.table, start, start + PIXELS_IN_SHARD))
    store.write_pixels(task.shard, np.concatenate(parts))
    return task.shard


def rejectable_donors(worker: WorkerState, glass: GlassSection) -> list[int]:
    """Return the numbers of the donors with so much glass that sampling may draw and reject them.

    Sampling measures the glass of these donors, so it needs their pixels even if no composite shows them.
    """
    bank = worker.donors
    return [
        number for number, donor in enumerate(bank.listed) if _is_rejectable(donor, bank, worker.job.pipeline, glass)
    ]


def _is_rejectable(donor: Donor, bank: Donors, pipeline: Pipeline, settings: GlassSection) -> bool:
    height, width = donor.image.shape[:2]
    glass = round(bank.other_share(donor, 0, 0, (height, width)) * height * width)
    windows = [(height, width)] if pipeline.bezier else []
    windows += [pipeline.mosaic.tile] if pipeline.mosaic else []
    # a window that is larger than its donor shows pixels several times
    return glass > 0 and any(
        rows > height or columns > width or glass >= math.floor(settings.max_share * rows * columns)
        for rows, columns in windows
    )


def _parts(bank: Donors, table: DonorTable, start: int, stop: int) -> Iterator[PackedPixels]:
    """Yield the stored pixels from position `start` to position `stop`, one piece for each donor."""
    first = 0
    for donor, is_fitted in table.parts():
        size = table.canvas if is_fitted and table.canvas else donor.size
        last = first + math.prod(size)
        if first < stop and last > start:
            pixels = bank.fitted(donor.id, size) if is_fitted else bank.packed(donor.id)
            yield pixels.reshape(-1)[max(0, start - first) : stop - first]
        first = last
