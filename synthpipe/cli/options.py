"""Arguments and options that several commands share, with the same names and meanings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from synthpipe.config.pipeline import MAX_PIXELS
from synthpipe.core.errors import ConfigError, SynthpipeError
from synthpipe.core.taxonomy import same_name
from synthpipe.files.locations import Location, exists, parse_location


class LocationType(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """A path, or a URL of a kind that fsspec supports, such as ``s3://bucket/run``."""

    name = "path or url"

    def __init__(self, exists: bool = False) -> None:
        self._exists = exists

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        try:
            location = parse_location(value)
            missing = self._exists and not exists(location)
        except SynthpipeError as error:
            self.fail(str(error), param, ctx)
        if missing:
            self.fail(f"{value!r} does not exist", param, ctx)
        return location

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class CheckpointFile(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """An existing checkpoint; the folder of a training means its best checkpoint."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if path.is_dir():
            path /= "best.ckpt"
        if not path.exists():
            self.fail(f"{str(path)!r} does not exist; expected a checkpoint, or the folder of a training", param, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


MAX_PIXELS_OPTION = click.option(
    "--max-pixels",
    "most",
    type=click.IntRange(min=1),
    default=MAX_PIXELS,
    show_default=True,
    help="Images with more pixels are refused before they are decoded.",
)


def _class_names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(map(str.strip, value.split(",")))
    if not all(names) or len(set(map(same_name, names))) < len(names):
        raise ConfigError(f"--classes {value}: got an empty or repeated name; expected names such as tumour,stroma")
    return names


CLASSES_OPTION = click.option(
    "--classes",
    metavar="NAMES",
    callback=_class_names,
    help="Class names in index order, separated by commas [the classes that the patches name].",
)
LABEL_PATTERN_OPTION = click.option(
    "--label-pattern",
    metavar="REGEX",
    help="For layout pattern: finds the class in file names, such as (?P<label>[A-Z]+)_.",
)
LOCATION = LocationType()
EXISTING = LocationType(exists=True)

patches_option = click.option(
    "--patches",
    "root",
    metavar="ROOT",
    help="Present location of the patches: folder, CSV file or URL; patches behind URLs are read only if it is given.",
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Worker processes on this machine; 0 does all work in the command's process [one per core].",
)
build_workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Worker processes on this machine; 0 runs all tasks in the command's process, without Dask [one per core].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
