"""Print text without secrets and without control characters for the terminal."""

from __future__ import annotations

import click

from synthpipe.core.display import printable, without_secrets


def plain(text: object) -> str:
    """Return text without secrets, and with control characters escaped; line breaks stay."""
    return "\n".join(map(printable, without_secrets(text).split("\n")))


def say(text: object = "", err: bool = False) -> None:
    """Print the result of `plain`; if `err`, print to standard error."""
    click.echo(plain(text), err=err)
