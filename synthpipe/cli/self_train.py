"""`synthpipe self-train`: train on composites, then also on real patches with predicted masks, in rounds."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from synthpipe.cli.options import EXISTING, LOCATION, MAX_PIXELS_OPTION
from synthpipe.cli.progress import reporter
from synthpipe.cli.pseudo_label import keep_option, pseudo_label
from synthpipe.cli.segmentation_options import (
    config_option,
    glass_option,
    hardware_options,
    layout_option,
    mask_options,
    output_option,
    set_option,
    val_option,
)
from synthpipe.cli.train import train
from synthpipe.config.pipeline import Layout
from synthpipe.core.errors import StoreError
from synthpipe.curated import CuratedSet
from synthpipe.files.folders import Kind, claim
from synthpipe.files.locations import Location

_SELF_TRAINING = Kind("self-training", ("round-1/last.ckpt", "round-1/.lock"), ("round-*", "pseudo-*.zarr"))


@click.command("self-train")
@click.argument("curated", nargs=-1, required=True, type=LOCATION)
@click.option("--real", type=EXISTING, required=True, help="Data set of the real patches.")
@layout_option
@val_option
@output_option
@click.option(
    "--rounds", type=click.IntRange(2), default=3, show_default=True, help="Number of trainings, one after the other."
)
@keep_option
@glass_option
@config_option
@set_option
@mask_options
@MAX_PIXELS_OPTION
@hardware_options
@click.option("--dry-run", is_flag=True, help="Print the plan of the first training, and the rounds; train nothing.")
def self_train(
    curated: tuple[Location, ...],
    real: Location,
    layout: Layout | None,
    output: Path,
    rounds: int,
    keep: float,
    glass: bool,
    device: str | None,
    most: int,
    dry_run: bool,
    **training: Any,
) -> None:
    """Train in rounds, on composites and predicted masks.

    The first round trains a network on the CURATED sets. Each further round predicts the masks of the real patches with
    the last network (`synthpipe pseudo-label`), and trains a new network on the curated sets and these patches
    (`synthpipe train`). No composite shows how tissues really meet; the real patches do. docs/datacomp.md has the
    gain of each round. Run the same command again to resume.

    \b
    Examples:
      synthpipe self-train runs/demo --real data/phantom --val data/phantom/2.validation --config demo -o runs/demo/self
      synthpipe self-train runs/bcss --real /data/BCSS-WSSS --val /data/BCSS-WSSS/val -o runs/bcss/self --rounds 4
    """
    claim(output, _SELF_TRAINING)
    invoke = partial(click.get_current_context().invoke, real=real, layout=layout, most=most)
    folders = [output / f"round-{number}" for number in range(1, rounds + 1)]
    outcome = invoke(train, curated=curated, output=folders[0], device=device, dry_run=dry_run, **training)
    for number, (previous, folder) in enumerate(pairwise(folders), 2):
        masks = output / f"pseudo-{number - 1}.zarr"
        reporter().note(f"round {number} of {rounds}: pseudo-label {previous} -o {masks}, then train -o {folder}")
        if dry_run:
            continue
        if outcome.first_process:
            first = device.split(",")[0] if device else None
            invoke(
                pseudo_label,
                checkpoint=previous / "best.ckpt",
                output=masks,
                device=first,
                glass=glass,
                keep=keep,
            )
        else:
            _wait_for(masks)
        outcome = invoke(train, curated=(*curated, masks), output=folder, device=device, **training)


def _wait_for(masks: Path) -> None:
    """Wait for the masks that the first process predicts: the processes of the other devices only train."""
    parent = os.getppid()
    while True:
        try:
            CuratedSet(masks)
        except StoreError:
            if os.getppid() != parent:
                raise
            time.sleep(1)
        else:
            return
