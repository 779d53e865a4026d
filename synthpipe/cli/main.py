"""The `synthpipe` command, and how errors reach its user: one clear message, no traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from synthpipe.cli.output import plain
from synthpipe.core.errors import SynthpipeError, cause_of, cure_of, is_of_client, is_of_memory
from synthpipe.core.packages import TORCH, TRAIN, absent, needs

DEBUG = "SYNTHPIPE_DEBUG"
_COMMANDS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            *("baseline", "build", "completion", "doctor", "evaluate", "export", "index", "init", "inspect", "phantom"),
            *("predict", "replay", "report", "schema", "status", "train", "validate", "verify"),
        )
    },
    "pseudo-label": "pseudo_label",
}
"""The module of each command."""


class ExplainingGroup(click.Group):
    """A command group that turns exceptions into one message and an exit code.

    Commands are imported when they are asked for: each starts as soon as what it needs is loaded, and `doctor` works
    where packages of the others are missing.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed: a file that is opened next would get its number, and its text
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  # for as long as the process lives
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names of files need not be Unicode
        if "_SYNTHPIPE_COMPLETE" in os.environ:
            import_module("synthpipe.cli.completion")  # its form of bash's completion replaces click's
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        try:
            module = import_module(f"synthpipe.cli.{_COMMANDS[cmd_name]}")
        except ImportError as error:
            raise click.ClickException(_missing(error)) from error
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SynthpipeError as error:
            if os.environ.get(DEBUG):
                raise
            raise _failure(_told(error)) from error
        except click.ClickException as error:
            error.message = plain(error.message)  # type: ignore[misc]  # click means subclasses
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            raise _failure("interrupted; finished work is kept: give the command again") from error
        except OSError as error:
            if os.environ.get(DEBUG) or error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise _failure(
                f"{where}{_told(error, cause_of(error))}; {cure_of(error) or 'check the disk'}; finished work is kept"
            ) from error
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            if is_of_client(error):
                raise _failure(
                    f"the store gave no answer: {_told(error, cause_of(error))}; {cure_of(error)}; finished work is "
                    "kept"
                ) from error
            if isinstance(error, ModuleNotFoundError):
                raise _failure(_missing(error)) from error
            if is_of_memory(error):
                raise _failure(
                    f"memory is full: {(str(error).splitlines() or ['no room was left'])[0]}\nLower what is computed "
                    "at once (composites and real of a training, --batch, --window batch=..., --workers), or choose a "
                    "smaller network"
                ) from error
            if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
                raise _failure(
                    f"a process that reads ahead has died: {str(error).splitlines()[0]}\nPerhaps memory was short, or "
                    "shared memory, of which containers have 64 MB (docker run --shm-size=2g gives more). Give fewer "
                    "--readers, or --readers 0, then give the command again: it resumes from its last checkpoint"
                ) from error
            if isinstance(error, RuntimeError) and "torchvision::" in str(error):
                raise _failure(
                    f"torchvision does not fit the installed torch: {error}\nInstall both again from the same index, "
                    "as docs/install.md shows"
                ) from error
            raise _failure(
                f"unexpected {type(error).__name__}: {_told(error)}\nThis is a fault of synthpipe, or something "
                f"that it does not foresee. {DEBUG}=1 shows the traceback; please report it."
            ) from error


def _failure(message: str) -> click.ClickException:
    return click.ClickException(plain(message))


def _told(error: Exception, message: str | None = None) -> str:
    """Return what an error says, and where in the work it happened."""
    return "\n  ".join([message or str(error), *getattr(error, "__notes__", [])])


def _missing(error: ImportError) -> str:
    """Say what to do about a package that cannot be imported."""
    stage = absent(*TORCH, *TRAIN)  # the segmentation stage imports these at once; a build checks before
    if (error.name or "").split(".")[0].replace("_", "-") in stage:
        return needs("the segmentation stage", stage)
    return f"a package that this needs cannot be imported: {error}; `synthpipe doctor` tells what to install"


@click.group(cls=ExplainingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="synthpipe")
def main() -> None:
    """Turn weakly-labelled pathology patches into curated composites with pixel masks.

    \b
    Start here:
      synthpipe doctor                                        is this machine fit?
      synthpipe init /data/patches -o mine.yaml               a pipeline file for patches of your own
      synthpipe phantom data/phantom                          procedural tissue to try it on
      synthpipe build pipelines/demo.yaml -o runs/demo        candidates, filter, curated set
      synthpipe inspect runs/demo                             what was made
      synthpipe verify runs/demo                              whether all of it is sound
      synthpipe train runs/demo ...                           a segmentation network, see `train --help`
    """
