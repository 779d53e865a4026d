"""`synthpipe materialize`: store the pixels of a virtual curated set."""

from __future__ import annotations

import click

from synthpipe.cli.interrupts import interruptible
from synthpipe.cli.options import LOCATION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.curated import CuratedSet
from synthpipe.files.locations import Location
from synthpipe.storage.summary import human_bytes, stored_bytes, summarise


@click.command()
@click.argument("curated", type=LOCATION)
@click.option("-o", "--output", type=LOCATION, required=True, help="Folder or URL of a new set, or of a set to resume.")
def materialize(curated: Location, output: Location) -> None:
    """Store the pixels of a virtual curated set.

    CURATED is a finished run with store.pixels: virtual, or its curated.zarr. The new set has the same bytes as the
    curated.zarr of an equal build with store.pixels: stored. Run the command again to resume an interrupted set.
    docs/virtual.md compares virtual sets with stored sets.

    \b
    Examples:
      synthpipe materialize runs/virtual -o sets/virtual.zarr
      synthpipe materialize runs/virtual/curated.zarr -o s3://bucket/virtual.zarr
    """
    from synthpipe.curated.materializing import materialize as write_pixels  # loads compiled kernels

    found = CuratedSet(curated)
    with interruptible():  # finished shards are kept
        path = write_pixels(found, output, reporter())
    say(f"{path}: {len(found)} composites with their pixels, {human_bytes(stored_bytes(summarise(path)))}")
