"""`synthpipe baseline`: train and measure what composites are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthpipe.cli.options import EXISTING, LOCATION, MAX_PIXELS_OPTION, CheckpointFile
from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.cli.segmentation import (
    checked_images,
    load_predictor,
    miou_text,
    note_glass,
    real_catalog,
    run_training,
    say_outcome,
    training_settings,
    windows_for,
)
from synthpipe.cli.segmentation_options import (
    FOLDER,
    config_option,
    glass_option,
    hardware_options,
    layout_option,
    mask_options,
    output_option,
    set_option,
    val_option,
    windows_option,
)
from synthpipe.config.fields import differences
from synthpipe.config.pipeline import Layout
from synthpipe.core.errors import ConfigError
from synthpipe.curated import CuratedSet
from synthpipe.files.folders import Kind, belongs, claim
from synthpipe.files.locations import Location

if TYPE_CHECKING:  # torch takes seconds to load, which `--help`, other commands and refused ones need not wait for
    pass

_BASELINE = Kind("baseline", ("baseline.json",), ("baseline.json", "labels", "masks", "test-*"))


@click.command()
@click.argument("curated", nargs=-1, required=True, type=LOCATION)
@click.option("--real", type=EXISTING, required=True, help="Data set of real patches.")
@layout_option
@click.option("--masks", type=FOLDER, help="Folder with img/ and mask/ to train the upper bound on [none is trained].")
@val_option
@click.option("--data", type=FOLDER, required=True, help="Folder with img/ and mask/ to compare on.")
@output_option
@config_option
@set_option
@hardware_options
@click.option(
    "--compare", multiple=True, type=CheckpointFile(), help="A checkpoint to measure too; may be given often."
)
@windows_option
@glass_option
@mask_options
@MAX_PIXELS_OPTION
def baseline(
    curated: tuple[Location, ...],
    real: Location,
    layout: Layout | None,
    masks: Path | None,
    val: Path,
    data: Path,
    output: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    device: str | None,
    readers: int | None,
    compare: tuple[Path, ...],
    windows: tuple[str, ...],
    glass: bool,
    any_palette: bool,
    mask_map: str | None,
    most: int,
) -> None:
    """Train what composites are measured against.

    Give the CURATED sets and the settings of `synthpipe train`, so that an epoch takes as many steps, and a step as
    many images. The lower bound knows image labels alone: its masks are those of the class activation map. The upper
    bound knows true masks, where the data has them. Both are measured on --data beside the checkpoints of --compare.
    --mask-map and --any-palette hold for all masks.

    \b
    Examples:
      synthpipe baseline runs/demo --real data/phantom --masks data/phantom/masked \\
        --val data/phantom/2.validation --data data/phantom/3.testing --config pipelines/training/demo.yaml \\
        --compare runs/demo/segmentation -o runs/demo/baseline
    """
    from synthpipe.segment.mask_check import among_patches, check_disjoint
    from synthpipe.segment.outputs import TRAINING
    from synthpipe.segment.sources import Composites, RealPatches

    claim(output, _BASELINE, known=belongs(output / "labels", TRAINING))
    settings = training_settings(config, overrides)
    sets = [CuratedSet(path) for path in curated]
    composites, description = Composites(sets), sets[0].description
    windows_for(description, windows)  # refused before anything is trained
    note_glass(description, glass)
    folders = {"--val": val, "--data": data} | ({"--masks": masks} if masks else {})
    checked = {
        option: checked_images(folder, description, mask_map, any_palette, most) for option, folder in folders.items()
    }
    check_disjoint(checked)
    validation, images = checked["--val"].images, checked["--data"].images
    catalog = real_catalog(real, layout, description, most)
    for each in (validation, images):
        among_patches(each, catalog.patches, reporter())
    patches = RealPatches(catalog.patches, description)

    from synthpipe.segment.baselines import bounds, compare_networks
    from synthpipe.segment.checkpoint import Checkpoint
    from synthpipe.segment.devices import choose_hardware

    masked = checked["--masks"].images if masks else None
    trainings = bounds(settings, description, composites, patches, masked, validation, catalog.digest)
    for path in compare:
        other = Checkpoint.load(path).description
        windows_for(other, windows)
        if changes := list(differences(description.taxonomy.to_json(), other.taxonomy.to_json())):
            raise ConfigError("\n  ".join([f"--compare {path}: has other classes than {curated[0]}:", *changes]))
    for name, (chosen, training) in trainings.items():
        outcome = run_training(chosen, training, output / name, choose_hardware(device, readers))
        if not outcome.finished:
            say_outcome(outcome, output / name)
            return
    if not outcome.first_process:  # the other devices' processes were there to train
        return
    first = device.split(",")[0] if device else None
    results = compare_networks(
        output, compare, masks is not None, lambda path: load_predictor(path, windows, first, glass), images, reporter()
    )
    _say_results(results, output)


def _say_results(results: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    from synthpipe.segment.references import BASELINES

    best = results.get(BASELINES["test-masks"], {"miou": None})["miou"]
    most_frequent = results[BASELINES["test-labels"]]["constant"]
    say(f"mIoU {most_frequent['miou']:.4f} if every pixel were {most_frequent['class']}")
    for name, result in results.items():
        share = f"  {result['miou'] / best:5.1%} of the upper bound" if best else ""
        say(f"{miou_text(result)}  fwIoU {result['fwiou']:.4f}{share}  {name}")
    say(f"{output}: baseline.json, and test-*/ with metrics and pictures of each")
