"""Prepare a worker for its first task: check packages, run and patches, and build its node's donor bank."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

import cv2

from synthpipe.build.tasks import Job, WorkerState, open_worker_state, real_patches
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import SynthpipeError
from synthpipe.core.packages import TORCH, absent, require_filter
from synthpipe.core.progress import Reporter
from synthpipe.core.records import PatchRef
from synthpipe.core.resizing import fit_packed
from synthpipe.core.threads import available_cores
from synthpipe.files.scratch import ANOTHER_LOCATION, has_locks
from synthpipe.files.writing import write_atomically
from synthpipe.patches.bank import bank_bytes, build_bank
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.patches.pixels import read_pixels
from synthpipe.patches.shared_bank import BankLocation, name_bank
from synthpipe.runtime import ClusterSettings, Demand, Local
from synthpipe.storage.run import versions

_TORCH_BYTES = 2 << 30
_SECONDS_TO_APPEAR = 10.0  # file systems of a cluster show new files late
_SECONDS_BETWEEN_NEWS = 0.2


@dataclass(frozen=True, slots=True)
class BuildWorkerSetup:
    """The driver's view of the run, for workers to compare with their own, and their donor bank.

    Attributes
    ----------
    job : Job
        The job of the build.
    token : str
        The text that the driver wrote into the run.
    first : PatchRef
        A donor that every node must be able to read.
    versions : dict
        The driver's packages; those of the filter count only if the pipeline has a filter.
    access : dict
        The result of `Catalog.access`.
    """

    job: Job
    token: str
    first: PatchRef
    versions: dict[str, str]
    access: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def _filtered(self) -> bool:
        return self.job.pipeline.filter.enabled

    @property
    def key(self) -> str:
        """A name that all builds of one run from the same patches share, and no other builds."""
        return name_bank(str(self.job.run.path), self.job.bank.name)

    def problems(self) -> list[str]:
        """Return the reasons why this worker cannot run the build; empty if it can."""
        return [*self._no_packages(), *self._other_versions(), *self._no_run(), *self._no_patches()]

    def prepared(self, on_donors: Callable[[int], None]) -> AbstractContextManager[WorkerState]:
        """Prepare this worker process: OpenCV on one thread, and the donor bank of the node built and mapped.

        `on_donors` is called with the number of donors that were added to the bank since its last call.
        """
        cv2.setNumThreads(1)
        return open_worker_state(self.job, partial(_build, self, on_donors))

    def _no_packages(self) -> Iterator[str]:
        try:
            if self._filtered:
                require_filter()
        except SynthpipeError as error:
            yield str(error)

    def _other_versions(self) -> Iterator[str]:
        here = versions(self._filtered)
        for package in sorted((here.keys() | self.versions.keys()) - set(absent(*TORCH))):
            found, expected = here.get(package, "unknown"), self.versions.get(package, "unknown")
            if found != expected:
                yield f"{package} is {found} there, {expected} here"

    def _no_run(self) -> Iterator[str]:
        path, deadline = self.job.run.token, time.monotonic() + _SECONDS_TO_APPEAR
        while True:
            try:
                found: str | None = path.read_text(encoding="utf-8")
            except OSError:
                found = None
            if found == self.token:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        what = "cannot be read" if found is None else "shows other files"
        yield f"the run {self.job.run.path} {what} there; its path must be one that all machines share"

    def _no_patches(self) -> Iterator[str]:
        try:
            read_pixels(self.first)
        except SynthpipeError as error:
            yield f"the patches are not those of the driver there; give patches.root a path that all see: {error}"


@contextmanager
def open_worker_setup(job: Job, catalog: Catalog) -> Iterator[BuildWorkerSetup]:
    """Write a token into the run, so that workers can check that they see the same run; remove the token at the end."""
    setup = BuildWorkerSetup(job, uuid4().hex, catalog.donors[0], versions(job.pipeline.filter.enabled), catalog.access)
    read_pixels(setup.first)  # fail here if the driver cannot read the patches either
    token = job.run.token
    write_atomically(token, setup.token)
    try:
        yield setup
    finally:
        token.unlink(missing_ok=True)


def bank_location(pipeline: Pipeline, catalog: Catalog, scratch: Path | None, shared: bool = True) -> BankLocation:
    """Return the location of a donor bank. Its name depends on all that decides the bytes, and on the donors' paths.

    `scratch` and `shared` are as in `BankLocation`.
    """
    glass = pipeline.glass.model_dump(mode="json") if pipeline.glass else None
    canvas = pipeline.canvas if pipeline.bezier else None
    paths = [patch.path for patch in catalog.donors]
    own = () if shared else (uuid4().hex,)  # two builds of one process have two banks too
    name = name_bank(catalog.digest, paths, glass, pipeline.taxonomy.background, canvas, versions(), *own)
    return BankLocation(name, scratch, shared)


def bank_of_build(pipeline: Pipeline, catalog: Catalog, cluster: ClusterSettings, reporter: Reporter) -> BankLocation:
    """Return the location of a build's donor bank. Workers of this machine share it only if file locks work there."""
    scratch = cluster.scratch_on_nodes
    shared = not isinstance(cluster.where, Local) or has_locks(scratch)
    if not shared:
        reporter.note(
            f"note: {scratch or tempfile.gettempdir()}: this file system gives one lock to several processes. So "
            "each worker builds its own donor bank there, and a killed worker leaves its bank behind. To share one "
            f"bank, {ANOTHER_LOCATION}"
        )
    return bank_location(pipeline, catalog, scratch, shared)


def demand(pipeline: Pipeline, catalog: Catalog, split: Mapping[str, Collection[str]]) -> Demand:
    """Return the memory that the tasks of a build need; `split` has the groups on each side of the filter's split."""
    canvas = pipeline.canvas if pipeline.bezier else None
    training = 0
    if pipeline.filter.enabled:
        # torch itself; composites, as many real patches and views of these, and as much again to compute with
        image = 3 * math.prod(pipeline.canvas)
        training = _TORCH_BYTES + 4 * pipeline.filter.candidates * image
        # the training patches are kept in memory unchanged
        sizes = (3 * patch.height * patch.width for patch in real_patches(pipeline, catalog, split)["train"])
        training += sum(max(0, size - image) for size in sizes)
    return Demand(bank_bytes(catalog.donors, canvas), training)


def _build(setup: BuildWorkerSetup, on_donors: Callable[[int], None], directory: Path) -> None:
    pipeline = setup.job.pipeline
    donors = load_catalog(setup.job.run.path, pipeline.taxonomy, setup.access).donors
    fit = partial(fit_packed, size=pipeline.canvas) if pipeline.bezier else None
    done = announced = 0
    latest = time.monotonic()

    def on_patch() -> None:
        nonlocal done, announced, latest
        done += 1
        if time.monotonic() - latest >= _SECONDS_BETWEEN_NEWS or done == len(donors):
            on_donors(done - announced)
            announced, latest = done, time.monotonic()

    build_bank(directory, donors, pipeline.glass, pipeline.taxonomy.background, on_patch, available_cores(), fit)
