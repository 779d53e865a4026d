"""Whether this machine is fit for synthpipe: what is fine, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from synthpipe.doctor.finding import Finding, checked
from synthpipe.doctor.installation import extras, packages, python
from synthpipe.files import Location

__all__ = ["Finding", "examine"]


def examine(directory: Location) -> Iterator[Finding]:
    """Yield each finding as soon as it is known; runs would be built in `directory`, which is left as it was.

    A check that fails is a finding too, and the others follow.
    """
    yield from checked("Python", python)
    yield from checked("packages", packages)
    yield from checked("extras", extras)
    try:
        from synthpipe.doctor.machine import machine
    except Exception as error:  # old packages raise more than ImportError
        yield Finding("machine", "wrong", f"not looked at: {error}", "mend the packages above, then look again")
        return
    yield from machine(directory)
