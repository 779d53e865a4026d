"""`synthpipe index`: count the patches of a folder or a CSV file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from synthpipe.cli.options import CLASSES_OPTION, EXISTING, LABEL_PATTERN_OPTION, MAX_PIXELS_OPTION, json_option
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.config.messages import shown
from synthpipe.config.pipeline import LAYOUTS, Layout, PatchesSection
from synthpipe.core.display import without_secrets
from synthpipe.core.errors import ConfigError
from synthpipe.core.patterns import pattern_fault
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.files.locations import Location, address
from synthpipe.patches.catalog import Catalog, survey
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.proposing import choose_layout
from synthpipe.patches.summary import catalog_summary


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
    """Count the patches of a folder or a CSV file.

    DIRECTORY is the folder, the CSV file, or the URL of either. index counts label sets, sizes, slides and problems.

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
    summary = {"root": without_secrets(patches.root), **catalog_summary(catalog, taxonomy, layout)}
    say(json.dumps(summary, indent=1) if as_json else "\n".join(_catalog_lines(summary, catalog)))


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
