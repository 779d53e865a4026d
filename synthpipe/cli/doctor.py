"""`synthpipe doctor`: check whether this machine can build."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from synthpipe.cli.options import LOCATION, json_option
from synthpipe.cli.output import say
from synthpipe.files.locations import Location


@click.command()
@click.argument("directory", type=LOCATION, default="runs")
@json_option
def doctor(directory: Location, as_json: bool) -> None:
    """Check whether this machine can run a build.

    doctor checks Python, packages, GPU, memory and Dask. It also checks the file system of DIRECTORY [runs], the folder
    of future runs: space, speed, locks and renames. It prints advice for each problem, and removes its test files. The
    exit code is 1 if a check finds a fault.

    \b
    Examples:
      synthpipe doctor
      synthpipe doctor /scratch/runs
      synthpipe doctor s3://bucket/runs --json
    """
    from synthpipe.doctor import examine  # loads Dask; --help need not wait for it

    results = []
    for result in examine(directory):
        results.append(result)
        if not as_json:
            say(f"{result.state:5}  {result.what:14} {result.found}")
            if result.cure:
                say(f"{'':22}{result.cure}")
    wrong = sum(result.state == "wrong" for result in results)
    if as_json:
        say(json.dumps([asdict(result) for result in results], indent=1))
    else:
        say(f"{wrong} of {len(results)} checks found a fault; see above" if wrong else "synthpipe can work here")
    if wrong:
        raise click.exceptions.Exit(1)
