"""The command line: the only part of synthpipe that prints or exits."""

from synthpipe.cli.main import main

__all__ = ["main"]
