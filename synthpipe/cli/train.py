"""`synthpipe train`: train a segmentation network on curated sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from synthpipe.cli.options import LOCATION, MAX_PIXELS_OPTION
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.segmentation import checked_images, real_catalog, run_training, say_outcome, training_settings
from synthpipe.cli.segmentation_options import (
    config_option,
    hardware_options,
    layout_option,
    mask_options,
    output_option,
    real_option,
    set_option,
    val_option,
)
from synthpipe.config.pipeline import Layout
from synthpipe.core.errors import ConfigError
from synthpipe.curated import CuratedSet, Description
from synthpipe.files.folders import claim
from synthpipe.files.locations import Location

if TYPE_CHECKING:  # loading torch takes seconds, so only commands that compute load it
    from synthpipe.segment.settings import TrainSettings
    from synthpipe.segment.training_records import Outcome, TrainingData


@click.command()
@click.argument("curated", nargs=-1, required=True, type=LOCATION)
@real_option
@layout_option
@val_option
@output_option
@config_option
@set_option
@mask_options
@MAX_PIXELS_OPTION
@hardware_options
@click.option(
    "--fresh",
    is_flag=True,
    help="Render new composites for each epoch, like those of CURATED; the sets must be virtual.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan of the training; train nothing.")
def train(
    curated: tuple[Location, ...],
    real: Location | None,
    layout: Layout | None,
    val: Path,
    output: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    any_palette: bool,
    mask_map: str | None,
    most: int,
    device: str | None,
    readers: int | None,
    fresh: bool,
    dry_run: bool,
) -> Outcome | None:
    """Train a segmentation network on curated sets.

    CURATED is a finished run, its curated.zarr, or the store of `synthpipe pseudo-label`. Several sets are joined, and
    all their samples count equally. Real patches (--real) also train the network, with a consistency loss. Run the same
    command again to resume a stopped training: it continues with the same batches as an uninterrupted training. Values
    of --val masks are class indices, unless --mask-map names the class of each value; the first note lists the values
    and their classes.

    With --fresh, no composite is shown twice: each one takes the place of a sample of CURATED, with its strategy and
    classes. It equals --set fresh=unfiltered. With --set fresh=filtered, the filter of the build must accept them.

    \b
    Examples:
      synthpipe train runs/demo --real data/phantom --val data/phantom/2.validation \\
        --config pipelines/training/demo.yaml -o runs/demo/segmentation
      synthpipe train runs/bcss --real /data/BCSS-WSSS --val /data/BCSS-WSSS/val -o runs/bcss/stage-1
      synthpipe train runs/bcss runs/bcss/pseudo.zarr --real /data/BCSS-WSSS \\
        --val /data/BCSS-WSSS/val -o runs/bcss/stage-2 --device cuda:0,cuda:1
      synthpipe train runs/virtual --set real=0 --val data/phantom/2.validation --fresh -o runs/virtual/fresh
      synthpipe train runs/glas --real glas-tiles --val /data/glas/val -o runs/glas/stage-1 \\
        --mask-map "255=gland,0=stroma"
    """
    from synthpipe.segment.mask_check import among_patches
    from synthpipe.segment.masks import digest_of
    from synthpipe.segment.outputs import TRAINING
    from synthpipe.segment.sources import Composites, RealPatches
    from synthpipe.segment.training_records import TrainingData

    claim(output, TRAINING)
    settings = training_settings(config, overrides)
    if fresh and settings.fresh is None:
        settings = settings.model_copy(update={"fresh": "unfiltered"})
    sets = [CuratedSet(path) for path in curated]
    streams = [each.fresh(settings.seed, settings.fresh) for each in sets] if settings.fresh else []
    composites, description = Composites(sets, streams), sets[0].description
    if real is None and settings.real:
        raise ConfigError("--real: missing; name the data set of the real patches, or set real=0 to train without them")
    images = checked_images(val, description, mask_map, any_palette, most).images
    patches = real_catalog(real, layout, description, most) if real is not None and settings.real else None
    _note_unused(settings, real, description)
    shown = RealPatches(patches.patches, description) if patches else None
    sources = {f"curated {number}": each.digest for number, each in enumerate(sets, 1)}
    for number, stream in enumerate(streams, 1):
        if stream.filter:
            sources |= {f"{strategy} filter {number}": each for strategy, each in stream.filter.digests.items()}
    if patches:
        among_patches(images, patches.patches, reporter())
        sources["real patches"] = patches.digest
    sources["validation images"] = digest_of(images)
    data = TrainingData(description, composites, shown, images, sources)
    if dry_run:
        _say_plan(settings, data, output)
        return None
    from synthpipe.segment.devices import choose_hardware

    outcome = run_training(settings, data, output, choose_hardware(device, readers))
    say_outcome(outcome, output)
    return outcome


def _note_unused(settings: TrainSettings, real: Location | None, description: Description) -> None:
    """Print a note about real patches or settings that have no effect."""
    if real is not None and not settings.real:
        reporter().note(f"note: real is 0, so the patches of {real} do not train the network")
    masks_glass = settings.consistency.form == "published" and settings.consistency.glass == "mask"
    if real is not None and settings.real and masks_glass and not description.glass:
        reporter().note(
            "note: the build did not look for glass, so consistency.glass masks only areas that transforms uncover"
        )


def _say_plan(settings: TrainSettings, data: TrainingData, output: Path) -> None:
    """Check that the network fits the images, and print the plan of the training."""
    from synthpipe.segment.network import SegmentationNetwork, read_file, with_own_normalisation
    from synthpipe.segment.training_checks import check_network

    settings = settings.model_copy(update={"network": with_own_normalisation(settings.network)})
    description, classes = data.description, data.description.taxonomy
    check_network(
        SegmentationNetwork(settings.network, len(classes), read_file(settings.network)), data, settings, devices=1
    )
    say("settings:\n" + yaml.safe_dump(settings.dump(), sort_keys=False, width=100))
    say(
        f"would train {output} on {_count(settings, data)} of {description.size[0]} x {description.size[1]} pixels and "
        f"{len(data.real or ())} real patches, classes {', '.join(classes.names)}; "
        f"{len(data.validation)} validation images choose the best weights"
    )


def _count(settings: TrainSettings, data: TrainingData) -> str:
    """Return the number of composites as text."""
    count = len(data.composites or ())
    return f"passes of {count} fresh composites" if settings.fresh else f"{count} composites"
