"""`synthpipe replay`: render one composite again and compare it with the stored one."""

from __future__ import annotations

from pathlib import Path

import click

from synthpipe.cli.options import LOCATION, patches_option
from synthpipe.cli.output import say
from synthpipe.core.errors import StoreError
from synthpipe.core.pictures import palette_png, png
from synthpipe.core.records import STRATEGIES, Composite, Strategy
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.curated import CuratedSet
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
@click.option(
    "--fresh-seed",
    "seed",
    type=click.IntRange(0, 2**64 - 1),
    metavar="SEED",
    help="INDEX is that of a fresh composite of a training with this seed; RUN can be a curated set.",
)
@patches_option
def replay(
    run: Location,
    strategy: Strategy,
    composite: int,
    output: Path,
    mask: Path | None,
    filter_training: bool,
    seed: int | None,
    root: str | None,
) -> None:
    """Render a composite again and compare it with the stored one.

    replay renders composite INDEX of STRATEGY in RUN from its recipe and donors. If the patches have moved, give their
    new location with --patches.

    With --fresh-seed, replay renders a composite that a training showed and no run stored, from the donors of the
    virtual curated set. Batches of fresh composites name STRATEGY and INDEX.

    replay reads donors behind URLs only if --patches gives the URL of the patches, with its credentials.

    \b
    Examples:
      synthpipe replay runs/demo mosaic 41 -o mosaic-41.png
      synthpipe replay runs/demo bezier 7 -o bezier-7.png --mask-output bezier-7-mask.png
      synthpipe replay runs/demo mosaic 41 -o mosaic-41.png --patches /new/place/phantom
      synthpipe replay runs/virtual bezier 70000 --fresh-seed 0 -o fresh.png
    """
    if seed is not None:
        if filter_training or root:
            raise click.UsageError(
                "--fresh-seed renders from the donors of the set; leave out --filter-training and --patches"
            )
        _replay_fresh(run, strategy, composite, seed, output, mask)
        return
    from synthpipe.verification.replay import replay as replay_composite  # loads Dask; --help need not wait for it

    found = replay_composite(run, strategy, composite, filter_training, root)
    _write(found.composite, found.taxonomy, output, mask)
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


def _replay_fresh(path: Location, strategy: Strategy, index: int, seed: int, output: Path, mask: Path | None) -> None:
    """Render a fresh composite from the donors of a curated set."""
    curated = CuratedSet(path)
    composite = curated.fresh(seed).composite(strategy, index)
    _write(composite, curated.taxonomy, output, mask)
    say(f"{output}: fresh {strategy} {index} of seed {seed}, made from these patches:")
    for patch in sorted(set(composite.recipe.donors())):
        say(f"  {patch}")


def _write(composite: Composite, taxonomy: Taxonomy, output: Path, mask: Path | None) -> None:
    write_atomically(output, png(composite.image))
    if mask:
        write_atomically(mask, palette_png(composite.mask, taxonomy))
