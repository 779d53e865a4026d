"""Check the donors of a virtual curated set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import AccessError, CatalogError, StoreError
from synthpipe.core.records import PatchRef, pack
from synthpipe.core.resizing import fit_packed
from synthpipe.files.locations import Location, translate_access_errors
from synthpipe.patches.bank import load_donor
from synthpipe.patches.catalog import Catalog
from synthpipe.storage.donors import PIXELS_IN_SHARD, DonorStore, DonorTable
from synthpipe.storage.nodes import METADATA
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import DONOR_ARRAYS, DONORS
from synthpipe.verification.expected import ExpectedGroup
from synthpipe.verification.faults import Fault
from synthpipe.verification.file_checks import error_summary


def expected_donors(
    run: RunDirectory, pipeline: Pipeline, catalog: Catalog, used: NDArray[np.bool_], required: bool
) -> tuple[ExpectedGroup | None, Fault | None]:
    """Return the expected group of donors, or the fault of its table. Both are None if the group does not exist yet.

    Parameters
    ----------
    run, pipeline, catalog : RunDirectory, Pipeline and Catalog
        The run, its pipeline and its source patches.
    used : (D,) bool
        For each donor of the catalog, whether composites of the set use the donor.
    required : bool
        Whether the group must exist, because the run is finished.
    """
    path = run.curated / DONORS
    try:
        store = DonorStore.find(run.curated, DONORS)
        table = store.table if store else None
    except AccessError:
        raise
    except StoreError as error:
        return None, _table_fault(path, error_summary(error, path / METADATA))
    if table is None:
        return None, _table_fault(path, "nothing") if required else None
    numbers = {patch.id: number for number, patch in enumerate(catalog.donors)}
    stored = frozenset(numbers.get(donor.id, -1) for donor in table.donors[: table.stored])
    expected = DonorTable.of(catalog.donors, stored, pipeline.canvas if pipeline.bezier else None)
    if -1 in stored or table != expected:
        return None, _table_fault(path, "a table that differs from the catalog")
    if lacking := set(np.flatnonzero(used).tolist()) - stored:
        return None, _table_fault(path, f"no pixels of {catalog.donors[min(lacking)].id!r}, which composites use")
    made = DonorStore.create(None, table, pipeline.store)
    names = list(DONOR_ARRAYS)
    arrays, metadata = made.stored_arrays(path, names), made.metadata(path, names)
    del metadata[run.curated / METADATA]  # the metadata of the set is checked with the set
    return ExpectedGroup(path, made, arrays, metadata, required, table.rows()), None


def check_donor_pixels(run: RunDirectory, pipeline: Pipeline, catalog: Catalog, count: int) -> Iterator[Fault]:
    """Decode at most `count` random donors again, and compare them with the stored pixels."""
    store = DonorStore.open(run.curated, DONORS)
    table, pixels = store.table, store.read_pixels()
    patches = {patch.id: patch for patch in catalog.donors}
    parts, start = list(table.parts()), 0
    chosen = set(np.random.default_rng().choice(len(parts), min(count, len(parts)), replace=False).tolist())
    for number, (donor, is_fitted) in enumerate(parts):
        size = table.canvas if is_fitted and table.canvas else donor.size
        stop = start + size[0] * size[1]
        if number in chosen and not _equals(patches[donor.id], pipeline, size, pixels[start:stop]):
            found, wanted = f"other pixels of {donor.id!r}", "those of the patch"
            yield Fault(
                "contradiction", store.object("pixels", start // PIXELS_IN_SHARD), found, wanted, remove=_files(run)
            )
            return
        start = stop


def _equals(patch: PatchRef, pipeline: Pipeline, size: tuple[int, int], found: NDArray[np.uint32]) -> bool:
    try:
        donor = load_donor(patch, pipeline.glass, pipeline.taxonomy.background)
    except CatalogError:
        return True  # its fault is reported already
    packed = fit_packed(pack(donor.image, donor.label if donor.mask is None else donor.mask), size)
    return np.array_equal(packed.ravel(), found)


def _table_fault(path: Location, found: str) -> Fault:
    cure = "give --repair to store the donors again"
    run = RunDirectory(path.parent.parent)
    return Fault("damaged", path / METADATA, found, "the donors of the curated set", cure, remove=_files(run))


def _files(run: RunDirectory) -> tuple[Location, ...]:
    """Return all files of the group of donors."""
    path, found = run.curated / DONORS, list[Location]()
    for folder in (path, *(path / name for name in DONOR_ARRAYS)):
        with translate_access_errors(folder):
            if folder.is_dir():
                found += (each for each in folder.iterdir() if each.name == METADATA or each.name.startswith("c."))
    return tuple(found)
