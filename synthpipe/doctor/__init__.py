"""Whether this machine is fit for synthpipe: what is fine, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from synthpipe.doctor.finding import Finding
from synthpipe.doctor.installation import extras, packages, python
from synthpipe.files import Location

__all__ = ["Finding", "examine"]


def examine(directory: Location) -> Iterator[Finding]:
    """Yield what is found, one thing after the other; runs would be built in `directory`, which is left as it was."""
    yield python()
    yield from packages()
    yield from extras()
    try:
        from synthpipe.doctor.machine import machine
    except ImportError as error:
        yield Finding("machine", "wrong", f"not looked at: {error}", "mend the packages above, then look again")
        return
    yield from machine(directory)
