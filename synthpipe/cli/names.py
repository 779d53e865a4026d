"""Names from a disk, which may hold anything, as a terminal may show them."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return a name with what would steer a terminal, or is no Unicode, as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))
