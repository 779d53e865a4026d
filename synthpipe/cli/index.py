"""`synthpipe index`: count the patches of a folder or a CSV file, and measure the quality of donors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from synthpipe.cli.donor_quality import check_table, images_in, network_features, write_donor_quality
from synthpipe.cli.options import (
    CLASSES_OPTION,
    EXISTING,
    LABEL_PATTERN_OPTION,
    LOCATION,
    MAX_PIXELS_OPTION,
    json_option,
)
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.settings import PatchesOrPipeline
from synthpipe.config import pipeline_file
from synthpipe.config.messages import shown
from synthpipe.config.pipeline import LAYOUTS, MAX_PIXELS, GlassSection, Layout, PatchesSection
from synthpipe.core.display import without_secrets
from synthpipe.core.errors import ConfigError
from synthpipe.core.patterns import pattern_fault
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.files.locations import Location, address
from synthpipe.patches.catalog import Catalog, survey
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.proposing import Found, choose_layout
from synthpipe.patches.summary import catalog_summary

_WITHOUT_QUALITY = tuple(
    f"donors.{key}" for key in ("quality=null", "quality_sha256=null", "drop=[]", "min_confidence=null")
)  # the table that a pipeline file names may not exist yet


@click.command()
@click.argument("directory", type=PatchesOrPipeline())
@click.option("--layout", type=click.Choice(LAYOUTS), help="Layout of the patches [detected from folders and names].")
@LABEL_PATTERN_OPTION
@CLASSES_OPTION
@click.option(
    "--group-pattern",
    help="Regular expression on the file name without suffix; its first group is the slide or patient.",
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Shell pattern of patch ids to leave out; can be repeated."
)
@MAX_PIXELS_OPTION
@click.option(
    "--quality", type=LOCATION, metavar="CSV", help="Measure all donors; write this table, and a picture beside it."
)
@click.option("--network", metavar="NAME", help="For --quality: a timm network that adds features [no network].")
@click.option("--weights", metavar="FILE", help="For --network: a file of its weights [the weights of timm's hub].")
@click.option(
    "--against",
    multiple=True,
    type=EXISTING,
    metavar="FOLDER",
    help="For --quality: folder of validation or test images; donors must not be copies of them; can be repeated.",
)
@json_option
def index(
    directory: Location,
    layout: Layout | None,
    label_pattern: str | None,
    classes: tuple[str, ...] | None,
    group_pattern: str | None,
    exclude: tuple[str, ...],
    most: int,
    quality: Location | None,
    network: str | None,
    weights: str | None,
    against: tuple[Location, ...],
    as_json: bool,
) -> None:
    """Count the patches of a folder or a CSV file.

    DIRECTORY is the folder, the CSV file, the URL of either, a pipeline file, or the name of a pipeline file that comes
    with synthpipe. index counts label sets, sizes, slides and problems.

    --quality measures the donors, which are patches of one class. It writes a table with a row for each donor. Beside
    the table it writes a PNG of the worst 20 donors for each reason: label, blur, glass, pen, fold, duplicate. A build
    leaves out such donors if its pipeline file has the keys donors.quality and donors.drop. To make the table for a
    build, give the build's pipeline file as DIRECTORY.

    \b
    Examples:
      synthpipe index data/phantom --layout wsss4luad
      synthpipe index data/glas-tiles --layout wsss4luad --classes gland,stroma
      synthpipe index /data/crc --label-pattern '^(?P<label>[A-Z]+)-'
      synthpipe index patches.csv --layout csv --json
      synthpipe index mine.yaml --quality quality.csv
      synthpipe index mine.yaml --quality quality.csv --against /data/mine/2.validation/img
      synthpipe index mine.yaml --quality quality.csv --network tf_efficientnet_lite0 --weights lite0.pth
    """
    if quality is None and (network or against):
        raise click.UsageError(f"{'--network' if network else '--against'}: needs --quality, the table to write")
    if weights and not network:
        raise click.UsageError("--weights: needs --network, the timm network of these weights")
    if quality is not None:  # before the patches are read, which takes long
        check_table(quality)
    features, others = network_features(network, weights), images_in(against)
    glass: GlassSection | None = None
    canvas: tuple[int, int] | None = None
    if directory.suffix.lower() in (".yaml", ".yml"):
        if layout or label_pattern or classes or group_pattern or exclude or most != MAX_PIXELS:
            raise click.UsageError(
                f"{directory}: a pipeline file has the layout and the classes; give no options for them"
            )
        pipeline = pipeline_file.load(str(directory), _WITHOUT_QUALITY)
        patches, taxonomy = pipeline.patches.model_copy(update={"on_error": "skip"}), pipeline.taxonomy
        glass, canvas = pipeline.glass, pipeline.canvas
    else:
        patches, taxonomy = _described(
            choose_layout(directory, layout, label_pattern), classes, group_pattern, exclude, most
        )
    claims = read_layout(patches, taxonomy)
    with reporter().stage("catalog", len(claims)) as advance:
        catalog = survey(patches, taxonomy, lambda: advance(1), claims=claims, canvas=canvas)
    summary = {"root": without_secrets(patches.root), **catalog_summary(catalog, taxonomy, patches.layout)}
    lines = list(_catalog_lines(summary, catalog))
    if quality is not None:
        found = write_donor_quality(catalog, taxonomy, glass, quality, features, others)
        counts = Counter(reason for each in found for reason in each.reasons)
        summary["quality"] = dict(counts)
        listed = ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "no donor has a reason"
        lines.append(f"quality of {len(found)} donors: {listed}")
        lines.append(f"  written: {quality} and {quality.with_suffix('.png')}")
    say(json.dumps(summary, indent=1) if as_json else "\n".join(lines))


def _described(
    found: Found, classes: Sequence[str] | None, group_pattern: str | None, exclude: Sequence[str], most: int
) -> tuple[PatchesSection, Taxonomy]:
    """Return the settings of the patches and the classes that the options describe."""
    patches = PatchesSection(
        root=address(found.root),
        layout=found.layout,
        label_pattern=found.label_pattern,
        group_pattern=group_pattern,
        exclude=(*found.exclude, *exclude),
        on_error="skip",
        max_pixels=most,
    )
    if group_pattern and (fault := pattern_fault(group_pattern)):
        raise ConfigError(f"--group-pattern {shown(group_pattern)}: {fault}")
    names = classes or found.class_names
    return patches, Taxonomy(tuple(TissueClass(name, (0, 0, 0)) for name in names))


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
