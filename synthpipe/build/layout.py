"""What the stores of a run look like: groups, attributes and arrays, for who builds them and for who checks them."""

from __future__ import annotations

from typing import Any

import zarr
from zarr.abc.store import Store

from synthpipe.compose import Purpose, donor_uses
from synthpipe.config.pipeline import PatchesSection, Pipeline
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog
from synthpipe.core.records import Strategy
from synthpipe.storage.schema import (
    CANDIDATE_ARRAYS,
    CURATED_ARRAYS,
    FORMAT_VERSION,
    SCORE_ARRAYS,
    VERDICT_ARRAYS,
    create_group,
    ensure_arrays,
    taxonomy_attributes,
)

Place = Location | Store


def composites_group(place: Place, pipeline: Pipeline, strategy: Strategy, purpose: Purpose, count: int) -> zarr.Group:
    """Create or lengthen the group of a strategy's composites, in a store that holds those of one purpose."""
    attributes = {
        "format_version": FORMAT_VERSION,
        "strategy": strategy,
        "purpose": purpose,
        "pipeline": pipeline.name,
        **taxonomy_attributes(pipeline.taxonomy),
    }
    create_group(place, "", {"format_version": FORMAT_VERSION, "pipeline": pipeline.name})
    group = create_group(place, strategy, attributes)
    ensure_arrays(group, CANDIDATE_ARRAYS, _sizes(pipeline, count, strategy), pipeline.store)
    return group


def add_scores(group: zarr.Group, pipeline: Pipeline, count: int, model_sha256: str) -> None:
    """Create or lengthen the scores of a strategy's candidates, by the filter of that digest."""
    model = {"model_sha256": model_sha256}
    ensure_arrays(group, SCORE_ARRAYS, _sizes(pipeline, count), pipeline.store, p_real=model)


def add_verdicts(group: zarr.Group, pipeline: Pipeline, count: int) -> None:
    """Create or lengthen the verdicts of a strategy's candidates."""
    ensure_arrays(group, VERDICT_ARRAYS, _sizes(pipeline, count), pipeline.store)


def curated_group(place: Place, pipeline: Pipeline, catalog: Catalog, count: int) -> zarr.Group:
    """Create or lengthen the group of the curated set, which is a store's only one."""
    attributes = {
        "format_version": FORMAT_VERSION,
        "pipeline": pipeline.name,
        "fingerprint": pipeline.fingerprint(),
        **taxonomy_attributes(pipeline.taxonomy),
        "groups": sorted({patch.group for patch in catalog.donors}),
        "patches": _patches(pipeline.patches),
        "glass": pipeline.glass.model_dump(mode="json") if pipeline.glass else None,
        "source": {"patches": catalog.digest},
    }
    group = create_group(place, "", attributes)
    ensure_arrays(group, CURATED_ARRAYS, _sizes(pipeline, count, *pipeline.strategies), pipeline.store)
    return group


def _patches(patches: PatchesSection) -> dict[str, Any]:
    """Return how patches are read; keys that former versions lack are left out unless they matter."""
    found = patches.model_dump(mode="json", exclude={"root", "max_pixels"})
    if patches.min_side is None:
        del found["min_side"]
    return found


def _sizes(pipeline: Pipeline, count: int, *strategies: Strategy) -> dict[str, int]:
    """Return the length of every dimension of `count` composites of some strategies."""
    classes = len(pipeline.classes)
    height, width = pipeline.canvas
    return {
        "sample": count,
        "y": height,
        "x": width,
        "channel": 3,
        "class": classes,
        "class_or_background": classes + 1,
        "donor_use": max((donor_uses(pipeline, strategy) for strategy in strategies), default=0),
    }
