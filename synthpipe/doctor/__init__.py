"""Check whether this machine can run synthpipe, with advice about each problem."""

from __future__ import annotations

from collections.abc import Iterator

from synthpipe.doctor.check_result import CheckResult, checked
from synthpipe.doctor.installation import extras, packages, python
from synthpipe.files.locations import Location

__all__ = ["CheckResult", "examine"]


def examine(directory: Location) -> Iterator[CheckResult]:
    """Check this machine for builds in `directory`, and yield each result at once.

    Test files are removed from `directory`. If a check raises an error, the error becomes a result, and the other
    checks still run.
    """
    yield from checked("Python", python)
    yield from checked("packages", packages)
    yield from checked("extras", extras)
    yield from checked("machine", lambda: _machine(directory))
    yield from checked("workers", _workers)


def _machine(directory: Location) -> Iterator[CheckResult]:
    from synthpipe.doctor.machine import machine  # loads packages that may be missing

    return machine(directory)


def _workers() -> Iterator[CheckResult]:
    from synthpipe.doctor.workers import workers  # loads Dask, whose settings may be wrong

    return workers()
