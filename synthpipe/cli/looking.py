"""`synthpipe index` and `replay`: looking at patches, and at how one composite is made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from synthpipe.cli.locations import (
    CLASSES_OPTION,
    EXISTING,
    LABEL_PATTERN_OPTION,
    LOCATION,
    MAX_PIXELS_OPTION,
    json_option,
    patches_option,
)
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.config.messages import shown
from synthpipe.config.pipeline import LAYOUTS, Layout, PatchesSection
from synthpipe.core.display import without_secrets
from synthpipe.core.errors import CatalogError, ConfigError, StoreError
from synthpipe.core.patterns import pattern_fault
from synthpipe.core.pictures import palette_png, png
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.files.locations import Location, address
from synthpipe.files.writing import write_atomically
from synthpipe.patches.access import MOVED, find_patches
from synthpipe.patches.bank import load_donor
from synthpipe.patches.catalog import Catalog, load_catalog, survey
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.proposing import choose_layout
from synthpipe.patches.remarks import catalog_remarks
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore


@click.command()
@click.argument("directory", type=EXISTING)
@click.option("--layout", type=click.Choice(LAYOUTS), help="How the patches are laid out [found by folders and names].")
@LABEL_PATTERN_OPTION
@CLASSES_OPTION
@click.option("--group-pattern", help="Regular expression on the stem; its first group is the slide or patient.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Shell pattern of patch ids to leave out.")
@MAX_PIXELS_OPTION
@json_option
def index(
    directory: Location,
    layout: Layout | None,
    label_pattern: str | None,
    classes: tuple[str, ...] | None,
    group_pattern: str | None,
    exclude: tuple[str, ...],
    most: int,
    as_json: bool,
) -> None:
    """Say what patches a folder or a CSV file has.

    DIRECTORY is the folder, the CSV file, or the URL of either. Label sets, sizes, slides and problems are counted.

    \b
    Examples:
      synthpipe index data/phantom --layout wsss4luad
      synthpipe index data/glas-tiles --layout wsss4luad --classes gland,stroma
      synthpipe index /data/crc --label-pattern '^(?P<label>[A-Z]+)-'
      synthpipe index patches.csv --layout csv --json
    """
    found = choose_layout(directory, layout, label_pattern)
    directory, layout = found.root, found.layout
    patches = PatchesSection(
        root=address(directory),
        layout=layout,
        label_pattern=found.label_pattern,
        group_pattern=group_pattern,
        exclude=(*found.exclude, *exclude),
        on_error="skip",
        max_pixels=most,
    )
    names = classes or found.class_names
    if group_pattern and (fault := pattern_fault(group_pattern)):
        raise ConfigError(f"--group-pattern {shown(group_pattern)}: {fault}")
    taxonomy = Taxonomy(tuple(TissueClass(name, (0, 0, 0)) for name in names))
    claims = read_layout(patches, taxonomy)
    with reporter().stage("catalog", len(claims)) as advance:
        catalog = survey(patches, taxonomy, lambda: advance(1), claims=claims)
    summary = {"root": without_secrets(patches.root), **_catalog_summary(catalog, taxonomy, layout)}
    say(json.dumps(summary, indent=1) if as_json else "\n".join(_catalog_lines(summary, catalog)))


@click.command()
@click.argument("run", type=LOCATION)
@click.argument("strategy", type=click.Choice(STRATEGIES))
@click.argument("composite", metavar="INDEX", type=click.IntRange(min=0))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="PNG to write.")
@click.option(
    "--mask-output", "mask", type=click.Path(dir_okay=False, path_type=Path), help="PNG to write the mask to."
)
@click.option("--filter-training", is_flag=True, help="One of the composites that trained the filter.")
@patches_option
def replay(
    run: Location,
    strategy: Strategy,
    composite: int,
    output: Path,
    mask: Path | None,
    filter_training: bool,
    root: str | None,
) -> None:
    """Render a composite again and compare it with the stored one.

    It is composite INDEX of a STRATEGY of RUN, rendered from its recipe and its donors. If the patches have moved,
    --patches says where they lie now.

    Donors behind URLs are read only where --patches names the root of the patches, with the credentials it needs.

    \b
    Examples:
      synthpipe replay runs/demo mosaic 41 -o mosaic-41.png
      synthpipe replay runs/demo bezier 7 -o bezier-7.png --mask-output bezier-7-mask.png
      synthpipe replay runs/demo mosaic 41 -o mosaic-41.png --patches /new/place/phantom
    """
    from synthpipe.compose import Donors, render

    directory = RunDirectory(run)
    pipeline = directory.pipeline()
    store = CompositeStore.open(directory.training if filter_training else directory.candidates, strategy)
    count = store.length("recipe")
    text = str(store.recipes([composite])[0]) if composite < count else ""
    if not text:
        raise StoreError(f"{run}: no {strategy} composite {composite}; there are {count}, counted from 0")
    recipe = store.recipe(composite, pipeline.canvas)
    catalog = load_catalog(run, pipeline.taxonomy)
    catalog = find_patches(catalog, pipeline.patches, pipeline.taxonomy, root, run)
    used = [catalog.by_id(patch) for patch in sorted(set(recipe.donors()))]
    background = pipeline.taxonomy.background
    try:
        donors = [load_donor(patch, pipeline.glass, background) for patch in used]
    except CatalogError as error:
        raise CatalogError(f"{error}\n{MOVED}") from error
    try:
        result = render(recipe, Donors(donors))
    except ValueError as error:
        raise store.unreadable_recipe(composite, str(error)) from error
    write_atomically(output, png(result.image))
    if mask:
        write_atomically(mask, palette_png(result.mask, pipeline.taxonomy))
    same = np.array_equal(result.image, store.images()[composite])
    same &= np.array_equal(result.mask, store.masks()[composite])
    say(f"{output}: {strategy} {composite}, made of")
    for patch in used:
        say(f"  {patch.path} ({pipeline.taxonomy.label(patch.classes)})")
    if not same:
        raise StoreError(
            f"{run}: the stored pixels of {strategy} {composite} differ from these; the store is damaged, or package "
            f"versions differ from those in {directory.run_file}"
        )
    say("equal to the stored pixels")


def _catalog_summary(catalog: Catalog, taxonomy: Taxonomy, layout: Layout) -> dict[str, Any]:
    sizes = Counter(f"{patch.height} x {patch.width}" for patch in catalog.patches)
    return {
        "layout": layout,
        "patches": len(catalog.patches),
        "donors": len(catalog.donors),
        "mixed": len(catalog.mixed),
        "label_sets": {taxonomy.label(classes): count for classes, count in sorted(catalog.counts().items())},
        "sizes": dict(sizes.most_common()),
        "groups": len(catalog.groups),
        "remarks": list(catalog_remarks(catalog, taxonomy, layout)),
        "problems": [{"id": p.id, "kind": p.kind, "message": p.message} for p in catalog.problems],
    }


def _catalog_lines(found: Mapping[str, Any], catalog: Catalog) -> Iterator[str]:
    yield f"{found['patches']} patches of {found['groups']} slides or patients"
    yield f"  in {found['root']}, layout {found['layout']}"
    yield f"  {found['donors']} with one class (donors), {found['mixed']} with several"
    yield "label sets"
    for name, count in found["label_sets"].items():
        yield f"  {count:7} {name}"
    yield "sizes (height x width)"
    for number, (size, count) in enumerate(found["sizes"].items()):
        if number == 10:
            yield f"  ... and {len(found['sizes']) - 10} other sizes"
            break
        yield f"  {count:7} {size}"
    yield f"problems: {len(found['problems']) or 'none'}"
    yield from (f"  {line}" for line in problem_lines(catalog.problems))
    yield from (f"note: {remark}" for remark in found["remarks"])
