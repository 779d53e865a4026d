"""Options that the commands of the segmentation stage share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthpipe.cli.options import EXISTING, CheckpointFile
from synthpipe.cli.settings import KeyValue, SettingsFile
from synthpipe.config.pipeline import LAYOUTS, PUBLISHED_GLASS
from synthpipe.config.shipped import SHIPPED

if TYPE_CHECKING:  # torch takes seconds to load, which `--help`, other commands and refused ones need not wait for
    pass

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
checkpoint_argument = click.argument("checkpoint", type=CheckpointFile())
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder to write: new, or begun by this command.",
)
real_option = click.option("--real", type=EXISTING, help="Data set of the real patches.")
layout_option = click.option("--layout", type=click.Choice(LAYOUTS), help="Of the real patches [that of the build].")
val_option = click.option(
    "--val", type=FOLDER, required=True, help="Folder with img/ and mask/: chooses the best weights."
)
config_option = click.option(
    "--config",
    type=SettingsFile(SHIPPED / "training"),
    help="YAML file, or the name of one that comes with synthpipe: demo, published or small [published].",
)
set_option = click.option(
    "--set",
    "overrides",
    type=KeyValue("synthpipe.segment.settings:TrainSettings"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a key of the settings file; may be given often.",
)
windows_option = click.option(
    "--window",
    "windows",
    type=KeyValue("synthpipe.segment.settings:WindowSection"),
    multiple=True,
    metavar="KEY=VALUE",
    help="How images are cut: size, stride, scales, flips, blend or batch; may be given often.",
)
glass_option = click.option(
    "--glass/--no-glass",
    default=True,
    show_default=True,
    help="Ignore empty glass, as the build of the composites defines it. If that build looked for no glass: areas of "
    f"{PUBLISHED_GLASS.min_area} pixels and more above grey {PUBLISHED_GLASS.threshold}.",
)
device_option = click.option(
    "--device", help="Where the network computes: cuda, cuda:1 or cpu [a GPU where there is one]."
)


def mask_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the values of masks mean."""
    for option in (
        click.option(
            "--any-palette", is_flag=True, help="Take mask values as class indices, whatever colours the palettes have."
        ),
        click.option(
            "--mask-map",
            metavar="VALUE=CLASS,...",
            help='What mask values mean, such as "0=ignore,1=gland,2=stroma" [class indices].',
        ),
    ):
        command = option(command)
    return command


def hardware_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a network is trained."""
    for option in (
        click.option(
            "--device",
            help="Where the network computes: cuda, cuda:1 or cpu; several with commas, as cuda:0,cuda:1 [all GPUs, or "
            "the CPU where there is none].",
        ),
        click.option(
            "--readers", type=click.IntRange(min=0), help="Processes of each device that read ahead [4; on a CPU none]."
        ),
    ):
        command = option(command)
    return command
