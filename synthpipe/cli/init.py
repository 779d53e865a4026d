"""`synthpipe init`: write a pipeline file for patches of your own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synthpipe.cli.options import CLASSES_OPTION, EXISTING, LABEL_PATTERN_OPTION, MAX_PIXELS_OPTION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.config.pipeline import LAYOUTS, Layout
from synthpipe.core.display import printable, without_secrets
from synthpipe.core.errors import ConfigError
from synthpipe.files.locations import Location
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.proposing import choose_layout

if TYPE_CHECKING:
    from synthpipe.build.pipeline_proposal import Proposal

_LISTED = 5  # number of printed problems


@click.command()
@click.argument("directory", type=EXISTING)
@click.option("--layout", type=click.Choice(LAYOUTS), help="Layout of the patches [detected from folders and names].")
@LABEL_PATTERN_OPTION
@CLASSES_OPTION
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write [the name of DIRECTORY with .yaml].",
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

    DIRECTORY is the folder of the patches, their CSV file, or the URL of either. init reads all patches, finds their
    layout, classes and slides, and chooses the canvas, the filter and the number of composites. `synthpipe build`
    accepts the file without changes; the file has comments, so you can edit it. init never overwrites a file.

    Folder names are taken as classes, unless file names contain labels and the folders are named like slides, such as
    slide7 or TCGA-A1-A0SK. The first printed lines name the source of the labels. --layout chooses another layout.

    \b
    Examples:
      synthpipe init data/phantom -o phantom.yaml
      synthpipe init /data/crc --label-pattern '^(?P<label>[A-Z]+)-'
      synthpipe init patches.csv -o mine.yaml
    """
    output = output or _own_name(directory)
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output}: exists, and is not overwritten; name another file with -o, or remove this file")
    found = choose_layout(directory, layout, label_pattern)
    from synthpipe.build.pipeline_proposal import propose_pipeline  # loads Dask; --help need not wait for it

    proposal = propose_pipeline(found, classes, most, output, reporter())
    text = proposal.text(_commands(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"{output}: exists, and is not overwritten; name another file with -o, or remove this file"
        ) from error
    for line in _report_lines(output, proposal):
        say(line)


def _own_name(directory: Location) -> Path:
    """Return a file name made from the name of a folder or table; no shell needs quotes around it."""
    folder = directory.resolve() if directory.name in ("", "..") else directory
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", re.sub(r"\.csv$", "", folder.name, flags=re.IGNORECASE)).strip("-.")
    return Path(f"{plain or 'pipeline'}.yaml")


def _commands(output: Path) -> tuple[str, str]:
    file = shlex.quote(printable(output))
    run = shlex.quote(printable(f"runs/{output.stem}"))
    return f"synthpipe build {file} --dry-run", f"synthpipe build {file} -o {run}"


def _report_lines(output: Path, proposal: Proposal) -> Iterator[str]:
    from synthpipe.build.pipeline_proposal import class_counts, problem_count

    pipeline, catalog, notes = proposal.pipeline, proposal.catalog, proposal.notes
    layout, pattern = pipeline.patches.layout, pipeline.patches.label_pattern
    labels = {"folders": "folder names", "csv": "the table"}.get(layout, "file names")
    yield f"{output}: written for {len(catalog.patches)} patches in {without_secrets(pipeline.patches.root)}"
    yield f"  layout: {layout}, labels from {labels}" + (f", {pattern}" if pattern else "")
    for name, count in zip(pipeline.taxonomy.names, class_counts(catalog, pipeline.taxonomy), strict=True):
        yield f"  {name}: {count}"
    yield f"  slides: {notes['group_pattern']}"
    yield f"  filter: off; {notes['filter']}"
    if catalog.problems:
        yield f"  {problem_count(catalog)}; these patches are left out:"
        yield from (f"    {line}" for line in problem_lines(catalog.problems, _LISTED))
    yield "\nNext:"
    yield from (f"  {command}" for command in _commands(output))
