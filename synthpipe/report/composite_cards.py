"""Cards of composites: the layers, regions, donors and replay command that the page shows for each composite."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from synthpipe.compose.mosaic import quadrant_windows
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.display_names import candidate, score
from synthpipe.core.records import BezierRecipe, MosaicRecipe, Recipe
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.core.verdict_text import verdict_text
from synthpipe.files.locations import Location
from synthpipe.patches.catalog import Catalog
from synthpipe.report.charts import class_label
from synthpipe.report.composites import (
    GalleryComposite,
    VisibleRegion,
    class_shares,
    edge_layer,
    mask_layer,
    numbered_regions,
    photo,
    region_layer,
    visible_regions,
)

_QUADRANTS = ("upper left", "upper right", "lower left", "lower right")


@dataclass(frozen=True, slots=True)
class CompositeCard:
    """The data of a composite's card.

    Texts are not escaped yet. Pictures are data URIs. `regions` and `quadrants` are rows of tables. `properties` are
    pairs of a name and a value.
    """

    strategy: str
    index: int
    name: str
    title: str
    anchor: str
    score: str
    reason: str
    shares: str
    alt: str
    width: int
    height: int
    font: float
    photo: str
    mask: str
    edges: str
    borders: str
    numbers: Sequence[VisibleRegion]
    properties: Sequence[tuple[str, str]]
    regions: Sequence[Sequence[Any]]
    quadrants: Sequence[Sequence[str]]
    replay: str


def composite_card(shown: GalleryComposite, pipeline: Pipeline, catalog: Catalog, run: Location) -> CompositeCard:
    """Return the card of a composite.

    Parameters
    ----------
    shown : GalleryComposite
        The composite.
    pipeline, catalog : Pipeline and Catalog
        The pipeline of its run, and the source patches.
    run : Path or UPath
        The run directory, for the replay command.
    """
    taxonomy = pipeline.taxonomy
    name, scored = candidate(shown.strategy, shown.index), score(shown.p_real)
    reason = _reason(shown, pipeline)
    visible, numbers = visible_regions(shown.recipe, shown.mask)
    shares = ", ".join(f"{share:.0%} {each}" for each, share in class_shares(shown.mask, taxonomy))
    title = ", ".join(part for part in (name, reason, scored) if part)
    height, width = shown.mask.shape
    replay = (
        f"synthpipe replay {shlex.quote(str(run))} {shown.strategy} {shown.index} -o {shown.strategy}-{shown.index}.png"
    )
    return CompositeCard(
        shown.strategy,
        shown.index,
        name,
        title,
        f"{shown.strategy}-{shown.index}",
        scored,
        reason,
        shares,
        f"composite {name}: {shares}",
        width,
        height,
        round(0.065 * max(height, width), 2),
        photo(shown.image),
        mask_layer(shown.mask, taxonomy),
        edge_layer(shown.mask, taxonomy),
        region_layer(numbers),
        numbered_regions(visible),
        [("classes", shares), *_recipe_properties(shown.recipe, len(visible))],
        [_region_row(each, taxonomy, catalog) for each in visible],
        _quadrant_rows(shown.recipe) if isinstance(shown.recipe, MosaicRecipe) else [],
        replay,
    )


def _reason(shown: GalleryComposite, pipeline: Pipeline) -> str:
    """Return the verdict on a composite in words. Mark a kept composite that the filter rejects."""
    if shown.verdict is None:
        return "not chosen yet"
    if shown.verdict == "kept" and shown.p_real is not None and shown.p_real <= pipeline.curation.threshold:
        return "kept, below the threshold"
    return verdict_text(shown.verdict, pipeline.ranked)


def _region_row(each: VisibleRegion, taxonomy: Taxonomy, catalog: Catalog) -> tuple[Any, ...]:
    patch = catalog.by_id(each.region.patch)
    colors = [taxonomy.classes[label].color for label in patch.classes]
    name = class_label(taxonomy.label(patch.classes), *colors)
    donor = Markup("<code>{}</code>").format(patch.path)
    return each.region.number, f"{each.share:.1%}", name, donor, each.region.position, each.region.window


def _recipe_properties(recipe: Recipe, regions: int) -> list[tuple[str, str]]:
    height, width = recipe.canvas
    rows = [("canvas", f"{height} x {width} pixels")]
    if isinstance(recipe, BezierRecipe):
        curve = f"{len(recipe.points)} corners, edgy {recipe.edgy:g}, radius {recipe.radius:g}"
        return [*rows, ("curve", curve)]
    rows.append(("split point", f"y {recipe.split[0]}, x {recipe.split[1]}"))
    rows.append(("tiles", f"{regions} of {len(tuple(recipe.donors()))} are visible"))
    return rows


def _quadrant_rows(recipe: MosaicRecipe) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    windows = quadrant_windows(recipe.split, recipe.canvas)
    for name, quadrant, (_, _, height, width) in zip(_QUADRANTS, recipe.quadrants, windows, strict=True):
        warp = quadrant.warp
        cells = ("none", "none", "none")
        if warp:
            cells = (f"{warp.angle:.1f}°", f"{warp.scale:.2f}", f"{warp.shift_y:+.1%}, {warp.shift_x:+.1%}")
        rows.append((name, f"{height} x {width}", quadrant.flip, *cells))
    return rows
