"""Compare the patches with the catalog, and render composites again from the patches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from synthpipe.build.tasks import Job, open_worker_state, sample_recipe
from synthpipe.build.worker_setup import bank_location
from synthpipe.compose import Donors, Purpose, render
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import CatalogError
from synthpipe.core.records import Composite, PatchRef, Recipe, Strategy
from synthpipe.core.resizing import fit_packed
from synthpipe.core.threads import available_cores, in_threads
from synthpipe.files.locations import parse_location
from synthpipe.patches.bank import build_bank, load_donor
from synthpipe.patches.catalog import Catalog
from synthpipe.patches.pixels import read_bytes
from synthpipe.storage.run import RunDirectory
from synthpipe.verification.faults import Fault

Rerender = Callable[[Strategy, Purpose, int, Recipe | None], tuple[Recipe, Composite] | None]
"""Function that samples and renders a composite again. It takes the strategy, purpose, index and recipe.

The recipe is None if no recipe is stored. The function returns None if a donor of the composite has changed.
"""


def check_patch_files(catalog: Catalog, advance: Callable[[int], None]) -> dict[str, Fault]:
    """Return the faults of patches that are missing, or have changed since they were indexed, by patch id."""
    found: dict[str, Fault] = {}
    faults = in_threads(_check_patch, catalog.patches, available_cores())
    for patch, fault in zip(catalog.patches, faults, strict=True):
        if fault:
            found[patch.id] = fault
        advance(1)
    return found


@contextmanager
def open_rerender(
    run: RunDirectory, pipeline: Pipeline, catalog: Catalog, altered: frozenset[str], advance: Callable[[int], None]
) -> Iterator[Rerender]:
    """Yield a function that samples and renders composites again.

    If some donors have changed, sampling is impossible, because sampling may draw any donor. Then the function renders
    only the stored recipes whose donors have not changed.

    Parameters
    ----------
    run, pipeline, catalog : RunDirectory, Pipeline and Catalog
        The run, its pipeline and its source patches.
    altered : frozenset of str
        The ids of the patches that have changed.
    advance : callable
        Called with the number of donors that were read.
    """
    background = pipeline.taxonomy.background

    def render_stored(
        strategy: Strategy, purpose: Purpose, index: int, recipe: Recipe | None
    ) -> tuple[Recipe, Composite] | None:
        if recipe is None:
            return None
        used = [catalog.by_id(patch) for patch in sorted(set(recipe.donors()))]
        if altered.intersection(patch.id for patch in used):
            return None
        return recipe, render(recipe, Donors(load_donor(patch, pipeline.glass, background) for patch in used))

    if altered.intersection(patch.id for patch in catalog.donors):
        yield render_stored
        return
    fit = partial(fit_packed, size=pipeline.canvas) if pipeline.bezier else None

    def build(directory: Path) -> None:
        cores = available_cores()
        build_bank(directory, catalog.donors, pipeline.glass, background, lambda: advance(1), cores, fit)

    with open_worker_state(Job(pipeline, run, bank_location(pipeline, catalog, None)), build) as state:

        def sample_and_render(
            strategy: Strategy, purpose: Purpose, index: int, recipe: Recipe | None
        ) -> tuple[Recipe, Composite]:
            sampled = sample_recipe(state, strategy, purpose, index)
            return sampled, render(sampled, state.donors)

        yield sample_and_render


def _check_patch(patch: PatchRef) -> Fault | None:
    cure = (
        "restore the patch from a copy, or give --patches ROOT if the patches have moved; otherwise composites of "
        "this patch cannot be rendered again"
    )
    try:
        found = hashlib.sha256(read_bytes(patch.secret_url or patch.path, patch.height * patch.width)).hexdigest()
    except CatalogError as error:
        return Fault("patch", parse_location(patch.path), str(error), f"the patch {patch.id!r}", cure, permanent=True)
    if found == patch.sha256:
        return None
    return Fault(
        "patch", parse_location(patch.path), f"digest {found}", f"{patch.sha256} of {patch.id!r}", cure, permanent=True
    )
