"""`synthpipe verify`: check every byte of a run, and repair it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from synthpipe.cli.interrupts import interruptible
from synthpipe.cli.options import LOCATION, build_workers_option, json_option, patches_option
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.files.locations import Location

if TYPE_CHECKING:
    from synthpipe.verification import VerifyReport

_LISTED = 50  # faults that are printed; --json has all


@click.command()
@click.argument("run", type=LOCATION)
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
    say(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(_report_lines(found)))
    if found.faults:
        raise click.exceptions.Exit(1)


def _report_lines(found: VerifyReport) -> Iterator[str]:
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
