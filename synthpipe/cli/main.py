"""The `synthpipe` command, which turns an error into one clear message without a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import import_module
from typing import Any

import click

from synthpipe.cli.output import plain
from synthpipe.core.errors import SynthpipeError, cause_of, cure_of, is_of_client, is_of_memory
from synthpipe.core.packages import TORCH, TRAIN, absent, needs

DEBUG = "SYNTHPIPE_DEBUG"
_COMMANDS = (
    *("baseline", "build", "completion", "doctor", "evaluate", "export", "index", "init", "inspect", "materialize"),
    *(
        "phantom",
        "predict",
        "pseudo-label",
        "replay",
        "report",
        "schema",
        "self-train",
        "status",
        "train",
        "validate",
        "verify",
    ),
)
"""All commands; the module of a command has its name, with underscores."""


class ExplainingGroup(click.Group):
    """A command group that turns exceptions into one message and an exit code.

    A command is imported only when it is called. So commands start quickly, and `doctor` works even if packages of
    other commands are missing.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # if it is closed, the next opened file would get its number and its text
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  # for as long as the process lives
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # like stderr, because file names need not be Unicode
        if "_SYNTHPIPE_COMPLETE" in os.environ:
            import_module("synthpipe.cli.completion")  # its completion for bash replaces click's
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        name = cmd_name.replace("-", "_")
        try:
            module = import_module(f"synthpipe.cli.{name}")
        except ImportError as error:
            raise click.ClickException(_import_text(error)) from error
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SynthpipeError as error:
            if os.environ.get(DEBUG):
                raise
            raise _failure(_text(error)) from error
        except click.ClickException as error:
            error.message = plain(error.message)  # type: ignore[misc]  # click means subclasses
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            raise _failure("interrupted; finished work is kept: run the command again") from error
        except OSError as error:
            if os.environ.get(DEBUG) or error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise _failure(
                f"{where}{_text(error, cause_of(error))}; {cure_of(error) or 'check the disk'}; finished work is kept"
            ) from error
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            if is_of_client(error):
                raise _failure(
                    f"the store did not answer: {_text(error, cause_of(error))}; {cure_of(error)}; finished work is "
                    "kept"
                ) from error
            if isinstance(error, ModuleNotFoundError):
                raise _failure(_import_text(error)) from error
            if is_of_memory(error):
                raise _failure(
                    f"memory is full: {(str(error).splitlines() or ['no memory was left'])[0]}\nUse smaller "
                    "batches (composites and real of a training, --batch, --window batch=...) or fewer "
                    "--workers, or choose a smaller network"
                ) from error
            if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
                raise _failure(
                    f"a reader process of the training has died: {str(error).splitlines()[0]}\nPerhaps memory or "
                    "shared memory was full; containers have 64 MB of shared memory (docker run "
                    "--shm-size=2g gives more). Give fewer --readers, or "
                    "--readers 0, then run the command again: it resumes from its last checkpoint"
                ) from error
            if isinstance(error, RuntimeError) and "torchvision::" in str(error):
                raise _failure(
                    f"torchvision does not fit the installed torch: {error}\nInstall both again from the same index, "
                    "as docs/install.md shows"
                ) from error
            raise _failure(
                f"unexpected {type(error).__name__}: {_text(error)}\nThis is a fault of synthpipe, or a case "
                f"that it does not handle. Set {DEBUG}=1 to see the traceback; please report it."
            ) from error


def _failure(message: str) -> click.ClickException:
    return click.ClickException(plain(message))


def _text(error: Exception, message: str | None = None) -> str:
    """Return the message of an error, followed by its notes."""
    return "\n  ".join([message or str(error), *getattr(error, "__notes__", [])])


def _import_text(error: ImportError) -> str:
    """Return a message about a package that cannot be imported."""
    stage = absent(*TORCH, *TRAIN)  # only the segmentation stage imports these unchecked
    if (error.name or "").split(".")[0].replace("_", "-") in stage:
        return needs("the segmentation stage", stage)
    return f"a package that this command needs cannot be imported: {error}; `synthpipe doctor` says what to install"


@click.group(cls=ExplainingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="synthpipe")
def main() -> None:
    """Turn weakly-labelled pathology patches into curated composites with pixel masks.

    \b
    Start here:
      synthpipe doctor                                        can this machine run a build?
      synthpipe init /data/patches -o mine.yaml               a pipeline file for your own patches
      synthpipe phantom data/phantom                          procedural tissue for a first try
      synthpipe build pipelines/demo.yaml -o runs/demo        candidates, filter, curated set
      synthpipe inspect runs/demo                             a summary of the run
      synthpipe verify runs/demo                              check every byte of the run
      synthpipe train runs/demo ...                           a segmentation network, see `train --help`
    """
