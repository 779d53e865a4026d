"""`synthpipe export`: write a curated set in the format of another tool."""

from __future__ import annotations

import click

from synthpipe.cli.interrupts import interruptible
from synthpipe.cli.options import LOCATION, workers_option
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS, PART, Exported
from synthpipe.export import export as write_export
from synthpipe.files.locations import Location
from synthpipe.storage.summary import human_bytes


@click.command()
@click.argument("curated", type=LOCATION)
@click.option(
    "--to", "form", type=click.Choice(FORMS), required=True, help="Format; docs/export.md describes the formats."
)
@click.option(
    "-o", "--output", type=LOCATION, required=True, help="Folder or URL of a new export, or of an export to resume."
)
@click.option(
    "--part", type=click.IntRange(min=1), default=PART, show_default=True, help="Composites per shard, file or step."
)
@workers_option
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Read the files back, with the format's own library if it is installed, and compare every pixel.",
)
def export(curated: Location, form: str, output: Location, part: int, workers: int | None, check: bool) -> None:
    """Write a curated set in the format of another tool.

    CURATED is a finished run, its curated.zarr, or the store of `synthpipe pseudo-label`. Run the same command again to
    resume an interrupted export: export compares the digests of existing parts, and writes damaged or missing parts
    again. The same set gives the same bytes.

    \b
    Examples:
      synthpipe export runs/demo --to png -o exports/demo-png
      synthpipe export runs/demo --to webdataset -o exports/demo-shards --part 500
      synthpipe export runs/demo --to hf -o exports/demo-hf --workers 2
      synthpipe export runs/demo --to coco -o exports/demo-coco --no-check
      synthpipe export runs/demo --to nnunet -o nnUNet_raw/Dataset501_demo
      synthpipe export runs/demo --to fiftyone -o exports/demo-fiftyone
    """
    with interruptible():  # finished parts are kept
        found = write_export(CuratedSet(curated), form, output, reporter(), part, workers, check)
    say(_outcome(found, output, form))


def _outcome(found: Exported, output: Location, form: str) -> str:
    there = f" ({found.kept} existed already)" if found.kept else ""
    read = (
        f"read back and compared, every pixel, with {', '.join(found.read_back)}"
        if found.read_back
        else "not read back"
    )
    return "\n".join(
        [
            f"{output}: {found.composites} composites as {form}",
            f"  {found.files} files, {human_bytes(found.bytes)}, in {found.parts} parts{there}",
            f"  {read}",
        ]
    )
