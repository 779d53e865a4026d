"""What commands print: text that neither shows secrets nor steers a terminal."""

from __future__ import annotations

import click

from synthpipe.core.display import printable, without_secrets


def plain(text: object) -> str:
    """Return text of one or more lines as a terminal may show it, whatever names of strangers are in it."""
    return "\n".join(map(printable, without_secrets(text).split("\n")))


def say(text: object = "", err: bool = False) -> None:
    """Print text as `plain` returns it, to standard error where `err`."""
    click.echo(plain(text), err=err)
