"""`synthpipe report`: the report of a run, made again."""

from __future__ import annotations

import click

from synthpipe.cli.locations import LOCATION
from synthpipe.cli.output import say
from synthpipe.files import Location
from synthpipe.storage.summary import human_bytes


@click.command()
@click.argument("run", type=LOCATION)
@click.option("-o", "--output", type=LOCATION, help="HTML file to write, or its URL [report.html of the run].")
def report(run: Location, output: Location | None) -> None:
    """Write the report of RUN, one HTML file for a browser; also of a run that is still being built.

    It says what was built from what, and shows kept and other composites with their recipes, scores, shares of classes,
    reuse of donors and slides, the filter's training, and times. It needs no network. You can print it, mail it or put
    it on a web server. A build writes it at its end.

    \b
    Examples:
      synthpipe report runs/demo
      synthpipe report s3://runs/bcss -o bcss.html
    """
    from synthpipe.report import write_report  # compiles, which other commands need not wait for

    written = write_report(run, output)
    say(f"{written}: {human_bytes(written.stat().st_size)}")
