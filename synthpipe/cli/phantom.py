"""`synthpipe phantom`: write procedural tissue for a first try."""

from __future__ import annotations

from pathlib import Path

import click

from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.patches.phantom import PhantomSpec, write_phantom

_DEFAULT = PhantomSpec()


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--patch-count", "patches", default=_DEFAULT.patches, show_default=True, help="Number of training patches."
)
@click.option("--slide-count", "slides", default=_DEFAULT.slides, show_default=True, help="Number of slides.")
@click.option("--size", default=_DEFAULT.size, show_default=True, help="Approximate side of a patch, in pixels.")
@click.option(
    "--image-count",
    "images",
    default=_DEFAULT.images,
    show_default=True,
    help="Number of validation images, and of test images, with masks.",
)
@click.option("--seed", default=_DEFAULT.seed, show_default=True, help="Seed of all random numbers.")
def phantom(directory: Path, patches: int, slides: int, size: int, images: int, seed: int) -> None:
    """Write procedural tissue for a first try.

    The tissue looks like H&E and has tumour, stroma, normal tissue and glass. DIRECTORY gets the layout of WSSS4LUAD:
    training patches with labels in their names, and validation and test images with masks. The same options give the
    same files.

    \b
    Examples:
      synthpipe phantom data/phantom
      synthpipe phantom data/large --patch-count 2000 --slide-count 40 --size 224
    """
    spec = PhantomSpec(seed=seed, slides=slides, patches=patches, size=size, images=images)
    with reporter().stage("phantom", spec.pictures) as advance:
        summary = write_phantom(directory, spec, lambda: advance(1))
    state = "" if summary.written else " (existed already)"
    say(f"{directory}: procedural tissue{state}")
    for label, count in summary.training.items():
        say(f"  {count:5} training patches of {label}")
    say(f"  {summary.validation} validation and {summary.test} test images with masks")
