"""What a worker needs before its first task: the driver's packages, the run, the patches, and its node's donor bank."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from uuid import uuid4

import cv2

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import SynthpipeError
from synthpipe.files.writing import write_atomically
from synthpipe.core.packages import TORCH, absent, require_filter
from synthpipe.patches.bank import build_bank
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.patches.shared_bank import BankLocation, HeldBank, hold_bank, name_bank
from synthpipe.patches.pixels import read_pixels
from synthpipe.core.records import PatchRef
from synthpipe.core.resizing import fit_packed
from synthpipe.storage.run import versions
from synthpipe.build.tasks import Job, open_donors, release_donors
from synthpipe.core.threads import available_cores

_SECONDS_TO_APPEAR = 10.0  # file systems of a cluster show new files late
_SECONDS_BETWEEN_NEWS = 0.2
_HELD: dict[BankLocation, HeldBank] = {}  # by this process
_USERS: defaultdict[BankLocation, set[str]] = defaultdict(set)  # keys of the builds that use each
_PREPARING = Lock()


@dataclass(frozen=True, slots=True)
class BuildWorkerSetup:
    """What the driver sees, for workers to compare with, and the bank that they use.

    Attributes
    ----------
    job : Job
        Of the build.
    token : str
        What the driver wrote into the run.
    first : PatchRef
        A donor, which every node must be able to read.
    versions : dict
        Of the driver's packages; those of the filter count only if the pipeline has one.
    access : dict
        What `Catalog.access` gave.
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
        """The same for every build of one run from the same patches, and for no others."""
        return name_bank(str(self.job.run.path), self.job.bank.name)

    def problems(self) -> list[str]:
        """Say, on a worker, in what it differs from the driver so that it cannot take part."""
        return [*self._no_packages(), *self._other_versions(), *self._no_run(), *self._no_patches()]

    def prepare(self, on_donors: Callable[[int], None]) -> None:
        """Get this worker process ready: OpenCV on one thread, the node's donor bank built and mapped.

        `on_donors` is called with the number of donors that are done, in steps that add up to all of them.
        """
        cv2.setNumThreads(1)
        place = self.job.bank
        with _PREPARING:
            _USERS[place].add(self.key)
            if place not in _HELD:
                _HELD[place] = hold_bank(place, partial(_build, self, on_donors))
            open_donors(place)

    def release(self) -> None:
        """Let go of the bank, unless another build uses it here; the last process of the node removes it."""
        place = self.job.bank
        with _PREPARING:
            _USERS[place].discard(self.key)
            if not _USERS[place] and (held := _HELD.pop(place, None)):
                release_donors()
                held.release()

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
        yield f"the run {self.job.run.path} {what} there; it must lie where all machines see it under the same path"

    def _no_patches(self) -> Iterator[str]:
        try:
            read_pixels(self.first)
        except SynthpipeError as error:
            yield f"the patches are not those of the driver there; give patches.root a path that all see: {error}"


@contextmanager
def open_worker_setup(job: Job, catalog: Catalog) -> Iterator[BuildWorkerSetup]:
    """Leave a token in the run while the block runs, by which workers know the run for the driver's."""
    workplace = BuildWorkerSetup(job, uuid4().hex, catalog.donors[0], versions(job.pipeline.filter.enabled), catalog.access)
    read_pixels(workplace.first)  # what the driver cannot read either is no fault of workers
    token = job.run.token
    write_atomically(token, workplace.token)
    try:
        yield workplace
    finally:
        token.unlink(missing_ok=True)


def place_bank(pipeline: Pipeline, catalog: Catalog, scratch: Path | None, shared: bool = True) -> BankLocation:
    """Name the bank of a pipeline and a catalog's donors after all that it is made of and with, and where they lie.

    `scratch` and `shared` are those of `BankLocation`.
    """
    glass = pipeline.glass.model_dump(mode="json") if pipeline.glass else None
    canvas = pipeline.canvas if pipeline.bezier else None
    paths = [patch.path for patch in catalog.donors]
    name = name_bank(catalog.digest, paths, glass, pipeline.taxonomy.background, canvas, versions())
    return BankLocation(name, scratch, shared)


def _build(workplace: BuildWorkerSetup, on_donors: Callable[[int], None], directory: Path) -> None:
    pipeline = workplace.job.pipeline
    donors = load_catalog(workplace.job.run.path, pipeline.taxonomy, workplace.access).donors
    fit = partial(fit_packed, size=pipeline.canvas) if pipeline.bezier else None
    done = told = 0
    latest = time.monotonic()

    def on_patch() -> None:
        nonlocal done, told, latest
        done += 1
        if time.monotonic() - latest >= _SECONDS_BETWEEN_NEWS or done == len(donors):
            on_donors(done - told)
            told, latest = done, time.monotonic()

    build_bank(directory, donors, pipeline.glass, pipeline.taxonomy.background, on_patch, available_cores(), fit)
