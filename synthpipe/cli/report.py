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

    RUN can be unfinished. The report lists the inputs and results of the build. It shows kept and rejected composites
    with their recipes, scores, shares of classes, reuse of donors and slides, the filter's training, and times. The
    report needs no network. You can print it, mail it or put it on a web server. Each build writes a report at its end.

    --anonymous leaves out all paths, the license, messages of problems, and the names of patches, slides, patients, the
    run and its pipeline. It also leaves out remarks that contain such a name. Patches become "patch 12" and slides
    "slide 3"; commands and the pipeline file have placeholders. The pixels of composites, names of classes, digests and
    versions stay.

    \b
    Examples:
      synthpipe report runs/demo
      synthpipe report runs/demo --anonymous -o demo.html
      synthpipe report s3://runs/bcss -o bcss.html
    """
    if anonymous and output is None:
        raise click.UsageError("--anonymous: name the file to write with -o; the run keeps its own report")
    from synthpipe.report import write_report  # loads compiled kernels; --help need not wait for them

    written = write_report(run, output, anonymous)
    say(f"{written}: {human_bytes(written.stat().st_size)}")
