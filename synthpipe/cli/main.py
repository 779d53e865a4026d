"""The `synthpipe` command, and how errors reach its user: one clear message, no traceback."""

from __future__ import annotations

import errno
import os
from typing import Any

import click

from synthpipe.cli.building import build, schema, validate
from synthpipe.cli.checking import doctor, status, verify
from synthpipe.cli.completion import completion
from synthpipe.cli.exporting import export
from synthpipe.cli.inspecting import inspect
from synthpipe.cli.looking import index, replay
from synthpipe.cli.phantom import phantom
from synthpipe.cli.reporting import report
from synthpipe.cli.training import baseline, evaluate, predict, pseudo_label, train
from synthpipe.errors import SynthpipeError

DEBUG = "SYNTHPIPE_DEBUG"
_STORE_CLIENTS = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google")
_TRAIN_EXTRA = ("lightning", "matplotlib", "segmentation_models_pytorch", "tensorboard")


class ExplainingGroup(click.Group):
    """A command group that turns exceptions into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SynthpipeError as error:
            if os.environ.get(DEBUG):
                raise
            raise click.ClickException(_told(error)) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            raise click.ClickException("interrupted; finished work is kept: give the command again") from error
        except OSError as error:
            if os.environ.get(DEBUG) or error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(
                f"{where}{_told(error, error.strerror)}; check that it is there, that you may write to it, and that "
                "there is room, then give the command again"
            ) from error
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            if type(error).__module__.split(".")[0] in _STORE_CLIENTS:
                raise click.ClickException(
                    f"the store gave no answer: {error}; check its address, your rights and the network, then give the "
                    "command again: finished work is kept"
                ) from error
            if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _TRAIN_EXTRA:
                message = (
                    f"{error.name} is not installed, and the segmentation stage needs it; install synthpipe[train]"
                )
                raise click.ClickException(message) from error
            if type(error).__name__ == "OutOfMemoryError":  # torch's, without loading it
                raise click.ClickException(
                    f"the device's memory is full: {str(error).splitlines()[0]}\nLower what is computed at once "
                    "(composites and real of a training, --batch, --window batch=...), or choose a smaller network"
                ) from error
            raise click.ClickException(
                f"unexpected {type(error).__name__}: {_told(error)}\nThis is a fault of synthpipe, or something "
                f"that it does not foresee. {DEBUG}=1 shows the traceback; please report it."
            ) from error


def _told(error: Exception, message: str | None = None) -> str:
    """Return what an error says, and where in the work it happened."""
    return "\n  ".join([message or str(error), *getattr(error, "__notes__", [])])


@click.group(cls=ExplainingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="synthpipe")
def main() -> None:
    """Turn weakly-labelled pathology patches into curated composites with pixel masks.

    \b
    Start here:
      synthpipe doctor                                        is this machine fit?
      synthpipe phantom data/phantom                          procedural tissue to try it on
      synthpipe build pipelines/demo.yaml -o runs/demo        candidates, filter, curated set
      synthpipe inspect runs/demo                             what was made
      synthpipe verify runs/demo                              whether all of it is sound
      synthpipe train runs/demo/curated.zarr ...              a segmentation network, see `train --help`
    """


for command in (
    *(build, validate, schema, index, replay, inspect, report, verify, status, export, phantom, doctor, completion),
    *(train, pseudo_label, evaluate, predict, baseline),
):
    main.add_command(command)
