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
    from synthpipe.segment.training_records import TrainingData


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
    dry_run: bool,
) -> None:
    """Train a segmentation network on curated sets.

    CURATED is a finished run, its curated.zarr, or the store of `synthpipe pseudo-label`. Several sets are joined, and
    all their samples count equally. Real patches (--real) also train the network, with a consistency loss. Run the same
    command again to resume a stopped training: it continues with the same batches as an uninterrupted training. Values
    of --val masks are class indices, unless --mask-map names the class of each value; the first note lists the values
    and their classes.

    \b
    Examples:
      synthpipe train runs/demo --real data/phantom --val data/phantom/2.validation \\
        --config pipelines/training/demo.yaml -o runs/demo/segmentation
      synthpipe train runs/bcss --real /data/BCSS-WSSS --val /data/BCSS-WSSS/val -o runs/bcss/stage-1
      synthpipe train runs/bcss runs/bcss/pseudo.zarr --real /data/BCSS-WSSS \\
        --val /data/BCSS-WSSS/val -o runs/bcss/stage-2 --device cuda:0,cuda:1
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
    sets = [CuratedSet(path) for path in curated]
    composites, description = Composites(sets), sets[0].description
    if real is None and settings.real:
        raise ConfigError("--real: missing; name the data set of the real patches, or set real=0 to train without them")
    images = checked_images(val, description, mask_map, any_palette, most).images
    patches = real_catalog(real, layout, description, most) if real is not None and settings.real else None
    _note_unused(settings, real, description)
    shown = RealPatches(patches.patches, description) if patches else None
    sources = {f"curated {number}": each.digest for number, each in enumerate(sets, 1)}
    if patches:
        among_patches(images, patches.patches, reporter())
        sources["real patches"] = patches.digest
    sources["validation images"] = digest_of(images)
    data = TrainingData(description, composites, shown, images, sources)
    if dry_run:
        _say_plan(settings, data, output)
    else:
        from synthpipe.segment.devices import choose_hardware

        say_outcome(run_training(settings, data, output, choose_hardware(device, readers)), output)


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
        f"would train {output} on {len(data.composites or ())} composites of {description.size[0]} x "
        f"{description.size[1]} pixels and {len(data.real or ())} real patches, classes {', '.join(classes.names)}; "
        f"{len(data.validation)} validation images choose the best weights"
    )
