"""`synthpipe init`: a pipeline file for patches of one's own."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import click

from synthpipe.cli.locations import CLASSES_OPTION, EXISTING, LABEL_PATTERN_OPTION, MAX_PIXELS_OPTION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.shipped import SHIPPED
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import LAYOUTS, MAX_PIXELS, PUBLISHED_GLASS, Layout, PatchesSection, Pipeline
from synthpipe.config.schema import flow
from synthpipe.core.display import printable, without_secrets
from synthpipe.core.errors import CatalogError, ConfigError, FilterError
from synthpipe.core.taxonomy import Taxonomy, TissueClass, distinct_colors, same_name
from synthpipe.files.locations import Location, address
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.proposing import Found, choose_layout, group_pattern
from synthpipe.patches.published import PUBLISHED

_LARGEST_CANVAS = 512
_USES = 10  # composites a donor and strategy in a first build
_PUBLISHED_WANTED = 3600
_LISTED = 5  # problems
_SHIPPED = {"wsss4luad": "wsss4luad", "bcss-wsss": "bcss", "luad-histoseg": "luad-histoseg"}
"""The files that come with synthpipe for the published layouts."""


@click.command()
@click.argument("directory", type=EXISTING)
@click.option("--layout", type=click.Choice(LAYOUTS), help="How the patches are laid out [found by folders and names].")
@LABEL_PATTERN_OPTION
@CLASSES_OPTION
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write [the name of DIRECTORY, and .yaml].",
)
@MAX_PIXELS_OPTION
def init(
    directory: Location,
    layout: Layout | None,
    label_pattern: str | None,
    classes: tuple[str, ...] | None,
    output: Path | None,
    most: int,
) -> None:
    """Write a pipeline file for your patches.

    The file builds as it stands. DIRECTORY is the folder of the patches, their CSV file, or the URL of either. init
    reads all patches, finds their layout, classes and slides, and chooses the canvas, whether a filter can be trained,
    and how many composites to make. The file has comments: change what you like. An existing file is never overwritten.

    Folders are classes, unless file names hold labels and the folders are slides by their names, such as slide7 or
    TCGA-A1-A0SK. The first lines that init prints say where it found labels. --layout decides otherwise.

    \b
    Examples:
      synthpipe init data/phantom -o phantom.yaml
      synthpipe init /data/crc --label-pattern '^(?P<label>[A-Z]+)-'
      synthpipe init patches.csv -o mine.yaml
    """
    output = output or _own_name(directory)
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output}: exists, and is not overwritten; name another file by -o, or remove it")
    found = choose_layout(directory, layout, label_pattern)
    names = classes or found.class_names
    if len(names) < 2:
        raise CatalogError(f"{found.root}: got one class, {names[0]}; composites need patches of two classes or more")
    patches, catalog, taxonomy = _survey(found, _taxonomy(found.layout, names, bool(classes)), most)
    keys, notes = _keys(patches, catalog, taxonomy)
    pipeline = pipeline_file.from_keys(keys, output)
    try:
        filterless = _filter_fault(pipeline, catalog)
    except CatalogError as error:
        raise CatalogError("\n  ".join([str(error), *problem_lines(catalog.problems, _LISTED)])) from error
    if filterless:
        keys["filter"] = {"enabled": False}
        pipeline = pipeline_file.from_keys(keys, output)
    notes["filter"] = filterless or f"{len(catalog.mixed)} patches of several classes stand for real images"
    text = "\n".join(_lines(keys, notes, output, _counts(catalog, taxonomy))) + "\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{output}: exists, and is not overwritten; name another file by -o, or remove it") from error
    _report(output, pipeline, catalog, notes)


def _own_name(directory: Location) -> Path:
    """Return the file that a folder or table gives its name to, in letters that every shell takes as they are."""
    place = directory.resolve() if directory.name in ("", "..") else directory
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", re.sub(r"\.csv$", "", place.name, flags=re.IGNORECASE)).strip("-.")
    return Path(f"{plain or 'pipeline'}.yaml")


def _taxonomy(layout: Layout, names: Sequence[str], are_given: bool) -> Taxonomy:
    """Return the classes: as they come with synthpipe for a published data set, else with colours of their own."""
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


def _survey(found: Found, taxonomy: Taxonomy, most: int) -> tuple[PatchesSection, Catalog, Taxonomy]:
    """Read the patches; return how they are read, with the pattern of their slides, and the classes that they show."""
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
    with reporter().stage("catalog", len(claims)) as advance:
        catalog = read_catalog(patches, taxonomy, lambda: advance(1), claims=claims)
    return patches, catalog, taxonomy


def _keys(patches: PatchesSection, catalog: Catalog, taxonomy: Taxonomy) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the keys of the file, and what is said beside them."""
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
        "on_error": f"{_problems(catalog)}, see --dry-run; what has one is left out",
        "canvas": f"pixels, half of the patches have sides of {side} and more",
        "wanted": f"of each strategy: {_USES} a single-class patch, at most the published {_PUBLISHED_WANTED}",
    }
    if patches.layout in PUBLISHED and taxonomy.names == PUBLISHED[patches.layout].classes:
        shipped = pipeline_file.load(SHIPPED / f"{_SHIPPED[patches.layout]}.yaml")
        notes["published"] = f"pipelines/{_SHIPPED[patches.layout]}.yaml has the settings of the published data set"
        if shipped.glass == PUBLISHED_GLASS:
            keys["glass"] = {}
        if shipped.bezier and shipped.bezier.pairs:
            keys["bezier"] = {"pairs": [list(pair) for pair in shipped.bezier.pairs]}
    return keys, notes


def _filter_fault(pipeline: Pipeline, catalog: Catalog) -> str:
    """Return why no filter can be trained on the patches, if none can.

    Raises
    ------
    CatalogError
        They do not make composites with a filter or without.
    """
    from synthpipe.build import check_patches  # loads Dask, which other commands need not wait for

    if not catalog.mixed:
        check_patches(
            pipeline.model_copy(update={"filter": pipeline.filter.model_copy(update={"enabled": False})}), catalog
        )
        return "no patch has several classes, and a filter learns from these; candidates are kept as they come"
    try:
        check_patches(pipeline, catalog)
    except FilterError as error:
        return str(error).partition(";")[0]
    return ""


def _problems(catalog: Catalog) -> str:
    return "1 problem" if len(catalog.problems) == 1 else f"{len(catalog.problems)} problems"


def _counts(catalog: Catalog, taxonomy: Taxonomy) -> list[str]:
    counts = []
    for index in range(len(taxonomy)):
        occurs = sum(index in patch.classes for patch in catalog.patches)
        alone = sum(patch.classes == (index,) for patch in catalog.donors)
        counts.append(f"in {occurs} patches, alone in {alone}" + ("" if alone else ": no composite will show it"))
    return counts


def _lines(keys: dict[str, Any], notes: dict[str, str], output: Path, counts: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the file."""
    yield "# Written by `synthpipe init`. All keys that are not here have the published values: docs/pipeline-file.md."
    if published := notes.get("published"):
        yield f"# {published}."
    yield from ("#", *(f"#   {command}" for command in _commands(output)))
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
    yield f"filter:\n  enabled: {flow(keys.get('filter', {}).get('enabled', True))} # {notes['filter']}"
    yield f"curation:\n  wanted: {keys['curation']['wanted']} # {notes['wanted']}"


def _commands(output: Path) -> tuple[str, str]:
    file = shlex.quote(printable(output))
    run = shlex.quote(printable(f"runs/{output.stem}"))
    return f"synthpipe build {file} --dry-run", f"synthpipe build {file} -o {run}"


def _report(output: Path, pipeline: Pipeline, catalog: Catalog, notes: dict[str, str]) -> None:
    layout, pattern = pipeline.patches.layout, pipeline.patches.label_pattern
    where = {"folders": "folder names", "csv": "the table"}.get(layout, "file names")
    say(f"{output}: written for {len(catalog.patches)} patches in {without_secrets(pipeline.patches.root)}")
    say(f"  layout: {layout}, labels from {where}" + (f", {pattern}" if pattern else ""))
    for name, count in zip(pipeline.taxonomy.names, _counts(catalog, pipeline.taxonomy), strict=True):
        say(f"  {name}: {count}")
    say(f"  slides: {notes['group_pattern']}")
    say(f"  filter: {'on' if pipeline.filter.enabled else 'off'}; {notes['filter']}")
    if catalog.problems:
        say(f"  {_problems(catalog)}; what has one is left out:")
        for line in problem_lines(catalog.problems, _LISTED):
            say(f"    {line}")
    say("\nNext:")
    for command in _commands(output):
        say(f"  {command}")
