"""`synthpipe verify`, `status` and `doctor`: whether a run is sound, how far a build is, whether a machine is fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from synthpipe.cli.interrupts import interruptible
from synthpipe.cli.locations import LOCATION, build_workers_option, json_option, patches_option
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.core.display_names import STRATEGY, VERDICT
from synthpipe.core.display_names import stage as in_words
from synthpipe.files.locations import Location

if TYPE_CHECKING:
    from synthpipe.verification import VerifyReport

_LISTED = 50  # faults that are printed; --json has all

_run_argument = click.argument("run", type=LOCATION)


@click.command()
@_run_argument
@click.option(
    "--sample",
    "samples",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Composites a strategy, and as many of its filter's, to sample and render again; 0 leaves the patches unread.",
)
@patches_option
@click.option("--repair", "mend", is_flag=True, help="Make what is broken again, then check once more.")
@build_workers_option
@json_option
def verify(run: Location, samples: int, root: str | None, mend: bool, workers: int | None, as_json: bool) -> None:
    """Check every byte of a run, and repair it if asked.

    A sound RUN holds what its pipeline makes of its patches, and all of it. verify reads every object: checksums,
    values, metadata, digests of small files. It judges the candidates again, compares the curated set with its origins,
    and makes some composites again. A set that --extend put aside is left out. Nothing is written unless --repair is
    given. A run that is not finished may be checked too. The exit code is 1 where faults are found, or remain.

    --repair removes what is broken, writes metadata anew, and builds: only what is gone is made again, with the bytes
    that it had. A run that is not finished is built to its end. Nothing is touched where a fault cannot be mended: a
    patch that is gone, run.json.

    If the patches have moved, --patches says where they lie now. Patches behind URLs are left unread, and no request is
    sent, unless --patches names where they lie: a run may be a stranger's. Credentials are not stored in a run, so they
    are given there too. --repair needs it likewise.

    \b
    Examples:
      synthpipe verify runs/demo
      synthpipe verify runs/demo --sample 200 --json
      synthpipe verify runs/demo --sample 0
      synthpipe verify runs/demo --repair --workers 4
      synthpipe verify runs/demo --patches /new/place/phantom
      synthpipe verify runs/demo --patches https://USER:PASSWORD@host/patches.csv
    """
    if workers is not None and not mend:
        raise click.UsageError("--workers are those of --repair; give both or neither")
    with interruptible():
        from synthpipe import verification  # loads Dask, which other commands need not wait for

        if mend:
            found = verification.repair(run, samples, workers, reporter(), root)
        else:
            found = verification.verify(run, samples, reporter(), root=root)
    say(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(_checkup_lines(found)))
    if found.faults:
        raise click.exceptions.Exit(1)


@click.command()
@_run_argument
@json_option
def status(run: Location, as_json: bool) -> None:
    """Say how far the build of a run is.

    It reads what is stored in RUN, and nothing else: from any shell, also after the build was killed. Rates are those
    of the last minutes, by when objects were stored. What a stage has still to do may grow: a plan is extended where
    too few candidates are kept.

    \b
    Examples:
      synthpipe status runs/demo
      watch -n 10 synthpipe status runs/demo
      synthpipe status runs/demo --json
    """
    from synthpipe.build.status import status_of

    found = status_of(run)
    say(json.dumps(found, indent=1) if as_json else "\n".join(_status_lines(found)))


def _checkup_lines(found: VerifyReport) -> Iterator[str]:
    from synthpipe.storage.summary import human_bytes

    for note in found.notes:
        yield f"note: {note}"
    for fault in found.faults[:_LISTED]:
        yield f"{fault.path}\n  {fault.kind}: {fault.found}\n  expected: {fault.expected}\n  {fault.cure}"
    if len(found.faults) > _LISTED:
        yield f"... and {len(found.faults) - _LISTED} more faults; --json lists them all"
    count = len(found.faults)
    state = f"{count} fault{'s' * (count != 1)}" if count else "sound"
    yield (
        f"{found.path}: {state}; {found.objects} objects, {human_bytes(found.size)}, {found.rendered} composites made "
        f"again, {found.seconds:.1f} s"
    )


def _status_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['path']}: {found['name']}, {in_words(found['stage'])}"
    if found["idle_seconds"] is not None and not found["finished"]:
        yield f"  latest object: {_duration(found['idle_seconds'])} ago"
    for entry in found["progress"]:
        done = f"{entry['done']} of {entry['planned']} shards"
        line = f"  {in_words(entry['what']):28} {done}, for {entry['composites']} composites"
        if entry["rate"] is not None:
            line += f", {entry['rate']:.3g} composites a second"
        if entry["damaged"]:
            line += f"; damaged, `synthpipe verify` tells more: {entry['damaged']}"
        if entry["seconds_left"] is not None:
            line += f", {_duration(entry['seconds_left'])} left"
        yield line
    for strategy, entry in found["strategies"].items():
        rejected = ", ".join(f"{count} {VERDICT[reason]}" for reason, count in entry["rejected"].items()) or "none"
        accepted = "" if entry["acceptance"] is None else f", the filter accepts {entry['acceptance']:.1%}"
        sample = "" if entry["judged"] == entry["of"] else f", a sample of {entry['of']}"
        if entry["damaged"]:
            yield f"  {STRATEGY[strategy]}: damaged, `synthpipe verify` tells more: {entry['damaged']}"
            continue
        yield f"  {STRATEGY[strategy]}: {entry['judged']} judged so far{sample}{accepted}; rejected: {rejected}"
    yield from (f"note: {remark}" for remark in found["remarks"])
    yield from (f"  warning: {text}" for text in found["warnings"])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@click.command()
@click.argument("directory", type=LOCATION, default="runs")
@json_option
def doctor(directory: Location, as_json: bool) -> None:
    """Check whether this machine is fit for a build.

    It looks at Python, packages, GPU, memory, Dask, and the file system of DIRECTORY [runs], into which runs are to be
    built: space, speed, locks and renames. It says what to do about what is wrong. What it writes there it removes. The
    exit code is 1 where something is wrong.

    \b
    Examples:
      synthpipe doctor
      synthpipe doctor /scratch/runs
      synthpipe doctor s3://bucket/runs --json
    """
    from synthpipe.doctor import examine  # loads Dask, which other commands need not wait for

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
