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

_LISTED = 50  # largest number of printed faults; --json prints all


@click.command()
@click.argument("run", type=LOCATION)
@click.option(
    "--sample",
    "samples",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Composites to render again, per strategy, and as many that train its filter; 0 reads no patches.",
)
@patches_option
@click.option("--repair", "mend", is_flag=True, help="Write broken objects again, then repeat the check.")
@build_workers_option
@json_option
def verify(run: Location, samples: int, root: str | None, mend: bool, workers: int | None, as_json: bool) -> None:
    """Check every byte of a run, and repair it if asked.

    In a sound RUN, all data follow from its pipeline and its patches. verify reads every object, and checks checksums,
    values, metadata and the digests of small files. It repeats curation, compares the curated set with the candidates,
    and renders a sample of composites again. It skips curated sets that --extend kept under another name. Without
    --repair it writes nothing. An unfinished run can be checked too. The exit code is 1 if faults are found or remain.

    --repair removes broken objects, writes the metadata again, and builds the missing objects with the same bytes as
    before. It also finishes an unfinished run. It changes nothing if a fault cannot be repaired, such as a missing
    patch or a broken run.json.

    If the patches have moved, give their new location with --patches. verify and --repair read patches behind URLs
    only if --patches gives their URL, because an untrusted run could name any URL. Include the credentials in that URL:
    a run does not store credentials.

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
        raise click.UsageError("--workers needs --repair; add --repair, or leave out --workers")
    with interruptible():
        from synthpipe import verification  # loads Dask; --help need not wait for it

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
        f"{found.path}: {state}; {found.objects} objects, {human_bytes(found.size)}, {found.rendered} composites "
        f"rendered again, {found.seconds:.1f} s"
    )
