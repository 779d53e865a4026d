"""Options that the commands of the segmentation stage share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from synthpipe.cli.options import EXISTING, CheckpointFile
from synthpipe.cli.settings import KeyValue, SettingsFile
from synthpipe.config.pipeline import LAYOUTS, PUBLISHED_GLASS
from synthpipe.config.shipped import SHIPPED

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
checkpoint_argument = click.argument("checkpoint", type=CheckpointFile())
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder to write; it must be new, or begun by this command.",
)
real_option = click.option("--real", type=EXISTING, help="Data set of the real patches.")
layout_option = click.option(
    "--layout", type=click.Choice(LAYOUTS), help="Layout of the real patches [the layout of the build]."
)
val_option = click.option(
    "--val", type=FOLDER, required=True, help="Folder with img/ and mask/; these images choose the best weights."
)
config_option = click.option(
    "--config",
    type=SettingsFile(SHIPPED / "training"),
    help="YAML file, or a name of a shipped file: demo, published or small [published].",
)
set_option = click.option(
    "--set",
    "overrides",
    type=KeyValue("synthpipe.segment.settings:TrainSettings"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a key of the settings file; can be repeated.",
)
windows_option = click.option(
    "--window",
    "windows",
    type=KeyValue("synthpipe.segment.settings:WindowSection"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting of the windows: size, stride, scales, flips, blend or batch; can be repeated.",
)
glass_option = click.option(
    "--glass/--no-glass",
    default=True,
    show_default=True,
    help="Ignore empty glass, as the build of the composites defines it. Without such a definition, glass "
    f"is an area of at least {PUBLISHED_GLASS.min_area} pixels above grey {PUBLISHED_GLASS.threshold}.",
)
device_option = click.option("--device", help="Device of the network: cuda, cuda:1 or cpu [a GPU, if there is one].")


def mask_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the meaning of mask values."""
    for option in (
        click.option(
            "--any-palette", is_flag=True, help="Take mask values as class indices, and ignore the colours of palettes."
        ),
        click.option(
            "--mask-map",
            metavar="VALUE=CLASS,...",
            help='Class of each mask value, such as "0=ignore,1=gland,2=stroma" [class indices].',
        ),
    ):
        command = option(command)
    return command


def hardware_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the hardware of a training."""
    for option in (
        click.option(
            "--device",
            help="Device of the network: cuda, cuda:1 or cpu; or several devices, such as cuda:0,cuda:1 [all GPUs, or "
            "the CPU if there is no GPU].",
        ),
        click.option(
            "--readers",
            type=click.IntRange(min=0),
            help="Processes that read data ahead, for each device [4, or 0 on a CPU].",
        ),
    ):
        command = option(command)
    return command
