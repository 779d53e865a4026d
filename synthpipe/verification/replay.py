"""Render one stored composite again from its recipe and donors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthpipe.compose import Donors, render
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.core.records import Composite, PatchRef, Recipe, Strategy
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.locations import Location, exists
from synthpipe.patches.access import MOVED, find_patches
from synthpipe.patches.bank import load_donor
from synthpipe.patches.catalog import Catalog, load_catalog
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore
from synthpipe.verification.objects import count_class_pixels
from synthpipe.verification.rendering import open_rerender


@dataclass(frozen=True, slots=True)
class Replay:
    """A composite that was rendered again, its donors, and whether it equals the stored arrays.

    A virtual composite is compared by its number of pixels of each class.
    """

    composite: Composite
    donors: tuple[PatchRef, ...]
    taxonomy: Taxonomy
    is_equal: bool
    is_virtual: bool


def replay(
    run: Location, strategy: Strategy, index: int, trains_filter: bool = False, root: str | None = None
) -> Replay:
    """Render a composite of a run again, and compare it with the stored one.

    Parameters
    ----------
    run : Path or UPath
        The run directory.
    strategy : {"mosaic", "bezier"}
        The strategy of the composite.
    index : int
        Index of the composite among the candidates.
    trains_filter : bool
        Whether `index` counts the composites that trained the filter instead.
    root : str, optional
        The present location of the patches, if they have moved.

    Raises
    ------
    StoreError
        The run has no such composite, or its recipe cannot be read.
    CatalogError
        A donor is missing or has changed.
    """
    directory = RunDirectory(run)
    pipeline = directory.pipeline()
    store = CompositeStore.open(directory.training if trains_filter else directory.candidates, strategy)
    count, first = store.length(), next(iter(store.written))
    if index >= count or not exists(store.object(first, index // store.shard)):
        raise StoreError(f"{run}: no {strategy} composite {index}; there are {count}, counted from 0")
    catalog = load_catalog(run, pipeline.taxonomy)
    catalog = find_patches(catalog, pipeline.patches, pipeline.taxonomy, root, run)
    recipe = (
        store.recipe(index, pipeline.canvas)
        if "recipe" in store.written
        else _sampled(directory, pipeline, catalog, strategy, index)
    )
    used = tuple(catalog.by_id(patch) for patch in sorted(set(recipe.donors())))
    background = pipeline.taxonomy.background
    try:
        donors = [load_donor(patch, pipeline.glass, background) for patch in used]
    except CatalogError as error:
        raise CatalogError(f"{error}\n{MOVED}") from error
    try:
        result = render(recipe, Donors(donors))
    except ValueError as error:
        raise store.unreadable_recipe(index, str(error)) from error
    if store.virtual:
        counts = count_class_pixels(result.mask[None], background + 1)
        is_equal = np.array_equal(counts, store.class_pixels([index]))
    else:
        is_equal = np.array_equal(result.image, store.images()[index])
        is_equal &= np.array_equal(result.mask, store.masks()[index])
    return Replay(result, used, pipeline.taxonomy, is_equal, store.virtual)


def _sampled(run: RunDirectory, pipeline: Pipeline, catalog: Catalog, strategy: Strategy, index: int) -> Recipe:
    """Sample the recipe of a candidate. All donors are decoded, because sampling may draw any donor."""
    with open_rerender(run, pipeline, catalog, frozenset(), lambda count: None) as rerender:
        made = rerender(strategy, "candidate", index, None)
    assert made is not None  # nosec B101 # for mypy: no donor is said to have changed
    return made[0]
