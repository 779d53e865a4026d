"""Propose a pipeline file for patches that have no pipeline yet."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from synthpipe.build.preflight import check_patches
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import MAX_PIXELS, PUBLISHED_GLASS, Layout, PatchesSection, Pipeline
from synthpipe.config.schema import flow
from synthpipe.config.shipped import SHIPPED
from synthpipe.core.display import without_secrets
from synthpipe.core.errors import CatalogError, FilterError
from synthpipe.core.progress import Reporter
from synthpipe.core.taxonomy import Taxonomy, TissueClass, distinct_colors, same_name
from synthpipe.files.locations import address
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.proposing import Found, group_pattern
from synthpipe.patches.published import PUBLISHED

_LARGEST_CANVAS = 512
_USES = 10  # composites per donor and strategy in a first build
_PUBLISHED_WANTED = 3600
_LISTED = 5  # problems
_SHIPPED = {"wsss4luad": "wsss4luad", "bcss-wsss": "bcss", "luad-histoseg": "luad-histoseg"}
"""The files that come with synthpipe for the published layouts."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A valid pipeline, the keys of its file, the comment of each key, and the catalog of the patches."""

    pipeline: Pipeline
    keys: Mapping[str, Any]
    notes: Mapping[str, str]
    catalog: Catalog

    def text(self, commands: Sequence[str]) -> str:
        """Return the text of the file, with the commands that build it as a comment."""
        counts = class_counts(self.catalog, self.pipeline.taxonomy)
        return "\n".join(_lines(self.keys, self.notes, commands, counts)) + "\n"


def propose_pipeline(
    found: Found, classes: Sequence[str] | None, most: int, output: Path, reporter: Reporter
) -> Proposal:
    """Read all patches, and propose the pipeline that composes them.

    Parameters
    ----------
    found : Found
        The root and the layout of the patches.
    classes : sequence of str, optional
        Class names in index order; by default the names in the patches.
    most : int
        The largest number of pixels of an image.
    output : Path
        The file that messages name.
    reporter : Reporter
        Receives the progress.

    Raises
    ------
    CatalogError
        The patches do not suffice for composites.
    """
    names = classes or found.class_names
    if len(names) < 2:
        raise CatalogError(f"{found.root}: got one class, {names[0]}; composites need patches of two classes or more")
    patches, catalog, taxonomy = _survey(found, _taxonomy(found.layout, names, bool(classes)), most, reporter)
    keys, notes = _keys(patches, catalog, taxonomy)
    pipeline = pipeline_file.from_keys(keys, output)
    try:
        check_patches(pipeline, catalog)
    except CatalogError as error:
        raise CatalogError("\n  ".join([str(error), *problem_lines(catalog.problems, _LISTED)])) from error
    notes["filter"] = _filter_note(pipeline, catalog)
    return Proposal(pipeline, keys, notes, catalog)


def _taxonomy(layout: Layout, names: Sequence[str], are_given: bool) -> Taxonomy:
    """Return the classes with colours: those of synthpipe for a published data set, or new ones."""
    if layout in PUBLISHED and not are_given:
        return pipeline_file.load(SHIPPED / f"{_SHIPPED[layout]}.yaml").taxonomy
    classes: list[TissueClass] = []
    for name, color in zip(names, distinct_colors(), strict=False):
        plain = re.sub(r"[^A-Za-z0-9_ .-]|^[^A-Za-z0-9]+", "", name).strip()
        taken = {same_name(each.name) for each in classes}
        if not plain or (plain != name and same_name(plain) in taken):
            plain = f"class {len(classes)}"
        classes.append(TissueClass(plain, color, (name,) * (plain != name)))
    return Taxonomy(tuple(classes))


def _survey(
    found: Found, taxonomy: Taxonomy, most: int, reporter: Reporter
) -> tuple[PatchesSection, Catalog, Taxonomy]:
    """Read the patches. Return their settings (with the pattern of slide names), the catalog, and the classes."""
    patches = PatchesSection(
        root=address(found.root),
        layout=found.layout,
        label_pattern=found.label_pattern,
        exclude=found.exclude,
        on_error="skip",
        max_pixels=most,
    )
    claims = read_layout(patches, taxonomy)
    if found.layout in ("folders", "pattern"):
        sound = [claim for claim in claims if not claim.problems]
        stems = [PurePosixPath(claim.id).stem for claim in sound]
        slides = group_pattern(stems, [taxonomy.label(claim.classes) for claim in sound])
        patches = patches.model_copy(update={"group_pattern": slides})
        claims = read_layout(patches, taxonomy)
    with reporter.stage("catalog", len(claims)) as advance:
        catalog = read_catalog(patches, taxonomy, lambda: advance(1), claims=claims)
    return patches, catalog, taxonomy


def _keys(patches: PatchesSection, catalog: Catalog, taxonomy: Taxonomy) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the keys of the file, and the comments beside them."""
    side = int(statistics.median(min(patch.height, patch.width) for patch in catalog.patches)) // 2 * 2
    canvas = max(2, min(side, _LARGEST_CANVAS))
    root = without_secrets(patches.root)
    about = {
        "root": root,
        **patches.model_dump(include={"layout", "label_pattern", "group_pattern", "exclude"}, exclude_defaults=True),
        **({"max_pixels": patches.max_pixels} if patches.max_pixels != MAX_PIXELS else {}),
        **({"on_error": "skip"} if catalog.problems else {}),
    }
    keys: dict[str, Any] = {
        "classes": taxonomy.to_json()["classes"],
        "patches": {key: list(value) if isinstance(value, tuple) else value for key, value in about.items()},
        "canvas": canvas,
        "curation": {"wanted": min(_PUBLISHED_WANTED, _USES * len(catalog.donors))},
    }
    slides = f"{len(catalog.groups)} slides or patients"
    if all(patch.group == PurePosixPath(patch.id).stem for patch in catalog.patches):
        slides = (
            "none found in file names: each name counts as one, so splits may divide slides; set "
            "patches.group_pattern, or name them in a CSV"
        )
    notes = {
        "group_pattern": slides,
        "root": "" if root == patches.root else "without its credentials: give them by --set patches.root=URL",
        "on_error": f"{problem_count(catalog)}, see --dry-run; such patches are left out",
        "canvas": f"pixels; half of the patches have sides of at least {side}",
        "wanted": f"of each strategy: {_USES} per single-class patch, at most the published {_PUBLISHED_WANTED}",
    }
    if patches.layout in PUBLISHED and taxonomy.names == PUBLISHED[patches.layout].classes:
        shipped = pipeline_file.load(SHIPPED / f"{_SHIPPED[patches.layout]}.yaml")
        notes["published"] = f"pipelines/{_SHIPPED[patches.layout]}.yaml has the settings of the published data set"
        if shipped.glass == PUBLISHED_GLASS:
            keys["glass"] = {}
        if shipped.bezier and shipped.bezier.pairs:
            keys["bezier"] = {"pairs": [list(pair) for pair in shipped.bezier.pairs]}
    return keys, notes


def _filter_note(pipeline: Pipeline, catalog: Catalog) -> str:
    """Return whether the patches can train a filter, and if not, why."""
    if not catalog.mixed:
        return "a filter needs patches of several classes, but there are none"
    with_filter = pipeline.filter.model_copy(update={"enabled": True})
    try:
        check_patches(pipeline.model_copy(update={"filter": with_filter}), catalog)
    except FilterError as error:
        return str(error).partition(";")[0]
    return f"true: {len(catalog.mixed)} patches of several classes train a filter, as published"


def problem_count(catalog: Catalog) -> str:
    """Return a text with the number of problems."""
    return "1 problem" if len(catalog.problems) == 1 else f"{len(catalog.problems)} problems"


def class_counts(catalog: Catalog, taxonomy: Taxonomy) -> list[str]:
    """Return a text for each class: the number of patches that show it, and the number that show only it."""
    counts = []
    for index in range(len(taxonomy)):
        occurs = sum(index in patch.classes for patch in catalog.patches)
        alone = sum(patch.classes == (index,) for patch in catalog.donors)
        counts.append(f"in {occurs} patches, alone in {alone}" + ("" if alone else ": no composite will show it"))
    return counts


def _lines(
    keys: Mapping[str, Any], notes: Mapping[str, str], commands: Sequence[str], counts: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of the file."""
    yield "# Written by `synthpipe init`. All keys that are not here have the published values: docs/pipeline-file.md."
    if published := notes.get("published"):
        yield f"# {published}."
    yield from ("#", *(f"#   {command}" for command in commands))
    yield "classes: # in index order; the index after the last is the background, ignored by losses and metrics"
    for spec, count in zip(keys["classes"], counts, strict=True):
        yield f"  - {flow({key: value for key, value in spec.items() if value})} # {count}"
    yield "patches:"
    for key, value in keys["patches"].items():
        yield f"  {key}: {flow(value)}" + (f" # {notes[key]}" if notes.get(key) else "")
    if "group_pattern" not in keys["patches"]:
        yield f"  # {notes['group_pattern']}"
    yield f"canvas: {keys['canvas']} # {notes['canvas']}"
    if "glass" in keys:
        yield "glass: {} # white background is looked for, as published"
    if "bezier" in keys:
        yield f"bezier: {flow(keys['bezier'])}"
    yield f"filter:\n  enabled: false # {notes['filter']}"
    yield f"curation:\n  wanted: {keys['curation']['wanted']} # {notes['wanted']}"
