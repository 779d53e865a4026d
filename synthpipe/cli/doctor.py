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

    doctor checks Python, packages, GPU, memory, Dask, and the file system of DIRECTORY [runs], where runs will be
    built: space, speed, locks and renames. It says how to fix each problem, and removes its test files. The exit code
    is 1 if something is wrong.

    \b
    Examples:
      synthpipe doctor
      synthpipe doctor /scratch/runs
      synthpipe doctor s3://bucket/runs --json
    """
    from synthpipe.doctor import examine  # loads Dask, which --help need not wait for

    findings = []
    for finding in examine(directory):
        findings.append(finding)
        if not as_json:
            say(f"{finding.state:5}  {finding.what:14} {finding.found}")
            if finding.cure:
                say(f"{'':22}{finding.cure}")
    wrong = sum(finding.state == "wrong" for finding in findings)
    if as_json:
        say(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        say(f"{wrong} wrong: see above" if wrong else "synthpipe can work here")
    if wrong:
        raise click.exceptions.Exit(1)
