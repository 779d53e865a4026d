"""Whether this machine is fit for synthpipe: what is fine, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from synthpipe.doctor.finding import Finding, checked
from synthpipe.doctor.installation import extras, packages, python
from synthpipe.files.locations import Location

__all__ = ["Finding", "examine"]


def examine(directory: Location) -> Iterator[Finding]:
    """Yield each finding as soon as it is known; runs would be built in `directory`, which is left as it was.

    A check that fails is a finding too, and the others follow.
    """
    yield from checked("Python", python)
    yield from checked("packages", packages)
    yield from checked("extras", extras)
    yield from checked("machine", lambda: _machine(directory))
    yield from checked("workers", _workers)


def _machine(directory: Location) -> Iterator[Finding]:
    from synthpipe.doctor.machine import machine  # loads packages that may be missing

    return machine(directory)


def _workers() -> Iterator[Finding]:
    from synthpipe.doctor.workers import workers  # loads Dask, whose settings may be wrong

    return workers()
