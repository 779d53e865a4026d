"""`synthpipe validate`: check a pipeline file."""

from __future__ import annotations

from pathlib import Path

import click

from synthpipe.cli.output import say
from synthpipe.cli.settings import pipeline_argument, set_option
from synthpipe.config import pipeline_file


@click.command()
@pipeline_argument
@set_option
def validate(pipeline: Path, overrides: tuple[str, ...]) -> None:
    """Check a pipeline file, and list all mistakes.

    PIPELINE is a file, or the name of a file that comes with synthpipe. Each mistake is listed with its key and the
    allowed values.

    Write numbers as 12, 0.5 or 1e-3, and booleans as true or false. All other values are text, such as 010, 1:30 or no.
    A file can have at most 256 KiB and 10,000 values.

    \b
    Examples:
      synthpipe validate demo
      synthpipe validate pipelines/demo.yaml --set canvas=96
    """
    settings = pipeline_file.load(pipeline, overrides)
    say(f"{pipeline}: valid; fingerprint {settings.fingerprint()}")
