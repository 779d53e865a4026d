"""`synthpipe report`: write the report of a run."""

from __future__ import annotations

import click

from synthpipe.cli.options import LOCATION
from synthpipe.cli.output import say
from synthpipe.files.locations import Location
from synthpipe.storage.summary import human_bytes


@click.command()
@click.argument("run", type=LOCATION)
@click.option("-o", "--output", type=LOCATION, help="HTML file to write, or its URL [report.html of the run].")
@click.option("--anonymous", is_flag=True, help="Leave out all names, to send the report to others; needs -o.")
def report(run: Location, output: Location | None, anonymous: bool) -> None:
    """Write the report of a run as one HTML file.

    The build of RUN need not be finished. The report says what was built from what, and shows kept and other composites
    with their recipes, scores, shares of classes, reuse of donors and slides, the filter's training, and times. The
    report needs no network. You can print it, mail it or put it on a web server. Each build writes one at its end.

    --anonymous leaves out every path, the names of patches, slides, patients, the run and its pipeline, the license,
    messages of problems, and remarks that contain a name. Patches become "patch 12" and slides "slide 3"; commands and
    the pipeline file have placeholders. The pixels of composites, names of classes, digests and versions stay.

    \b
    Examples:
      synthpipe report runs/demo
      synthpipe report runs/demo --anonymous -o demo.html
      synthpipe report s3://runs/bcss -o bcss.html
    """
    if anonymous and output is None:
        raise click.UsageError("--anonymous: name the file to write with -o; the run keeps its own report")
    from synthpipe.report import write_report  # compiles, which --help need not wait for

    written = write_report(run, output, anonymous)
    say(f"{written}: {human_bytes(written.stat().st_size)}")
