"""`synthpipe replay`: render one composite again and compare it with the stored one."""

from __future__ import annotations

from pathlib import Path

import click

from synthpipe.cli.options import LOCATION, patches_option
from synthpipe.cli.output import say
from synthpipe.core.errors import StoreError
from synthpipe.core.pictures import palette_png, png
from synthpipe.core.records import STRATEGIES, Strategy
from synthpipe.files.locations import Location
from synthpipe.files.writing import write_atomically
from synthpipe.storage.run import RunDirectory


@click.command()
@click.argument("run", type=LOCATION)
@click.argument("strategy", type=click.Choice(STRATEGIES))
@click.argument("composite", metavar="INDEX", type=click.IntRange(min=0))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="PNG to write.")
@click.option(
    "--mask-output", "mask", type=click.Path(dir_okay=False, path_type=Path), help="PNG to write the mask to."
)
@click.option(
    "--filter-training", is_flag=True, help="INDEX is a position among the composites that trained the filter."
)
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

    replay renders composite INDEX of STRATEGY in RUN from its recipe and donors. If the patches have moved, give their
    new location with --patches.

    replay reads donors behind URLs only if --patches gives the URL of the patches, with its credentials.

    \b
    Examples:
      synthpipe replay runs/demo mosaic 41 -o mosaic-41.png
      synthpipe replay runs/demo bezier 7 -o bezier-7.png --mask-output bezier-7-mask.png
      synthpipe replay runs/demo mosaic 41 -o mosaic-41.png --patches /new/place/phantom
    """
    from synthpipe.verification.replay import replay as replay_composite  # loads Dask; --help need not wait for it

    found = replay_composite(run, strategy, composite, filter_training, root)
    write_atomically(output, png(found.composite.image))
    if mask:
        write_atomically(mask, palette_png(found.composite.mask, found.taxonomy))
    say(f"{output}: {strategy} {composite}, made from these patches:")
    for patch in found.donors:
        say(f"  {patch.path} ({found.taxonomy.label(patch.classes)})")
    stored = "class counts" if found.is_virtual else "pixels"
    if not found.is_equal:
        raise StoreError(
            f"{run}: the stored {stored} of {strategy} {composite} differ from the rendered {stored}; the store is "
            f"damaged, or package versions differ from those in {RunDirectory(run).run_file}"
        )
    say(f"equal to the stored {stored}")
