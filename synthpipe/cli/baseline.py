"""`synthpipe baseline`: train and measure a lower and an upper bound for composites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
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
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.curated import CuratedSet, Description
from synthpipe.files.folders import Kind, belongs, claim
from synthpipe.files.locations import Location

if TYPE_CHECKING:  # loading torch takes seconds, so only commands that compute load it
    from synthpipe.segment.devices import Hardware
    from synthpipe.segment.masks import MaskedImage
    from synthpipe.segment.settings import TrainSettings
    from synthpipe.segment.training_records import TrainingData

_BASELINE = Kind("baseline", ("baseline.json",), ("baseline.json", "labels", "masks", "test-*"))


@click.command()
@click.argument("curated", nargs=-1, required=True, type=LOCATION)
@click.option("--real", type=EXISTING, required=True, help="Data set of real patches.")
@layout_option
@click.option("--masks", type=FOLDER, help="Folder with img/ and mask/ that trains the upper bound [no upper bound].")
@val_option
@click.option("--data", type=FOLDER, required=True, help="Folder with img/ and mask/ for the comparison.")
@output_option
@config_option
@set_option
@hardware_options
@click.option("--compare", multiple=True, type=CheckpointFile(), help="Another checkpoint to measure; can be repeated.")
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
    """Train and measure a lower and an upper bound for composites.

    Give the same CURATED sets and settings as for `synthpipe train`, so that the number of steps and of images per step
    is the same. The lower bound learns only from image labels, and predicts masks with its class activation map. The
    upper bound learns from the true masks of --masks. Both bounds and the checkpoints of --compare are measured on
    --data. --mask-map and --any-palette apply to all masks.

    \b
    Examples:
      synthpipe baseline runs/demo --real data/phantom --masks data/phantom/masked \\
        --val data/phantom/2.validation --data data/phantom/3.testing --config pipelines/training/demo.yaml \\
        --compare runs/demo/segmentation -o runs/demo/baseline
    """
    from synthpipe.segment.mask_check import among_patches
    from synthpipe.segment.outputs import TRAINING
    from synthpipe.segment.sources import Composites, RealPatches

    claim(output, _BASELINE, known=belongs(output / "labels", TRAINING))
    settings = training_settings(config, overrides)
    sets = [CuratedSet(path) for path in curated]
    composites, description = Composites(sets), sets[0].description
    windows_for(description, windows)  # refused before anything is trained
    note_glass(description, glass)
    folders = {"--val": val, "--data": data} | ({"--masks": masks} if masks else {})
    checked = _check_folders(folders, description, mask_map, any_palette, most)
    validation, images, masked = checked["--val"], checked["--data"], checked.get("--masks")
    catalog = real_catalog(real, layout, description, most)
    for each in (validation, images):
        among_patches(each, catalog.patches, reporter())
    from synthpipe.segment.baselines import bounds, compare_networks
    from synthpipe.segment.devices import choose_hardware

    patches = RealPatches(catalog.patches, description)
    trainings = bounds(settings, description, composites, patches, masked, validation, catalog.digest)
    _check_classes(compare, windows, curated[0], description.taxonomy)
    if not _train_bounds(trainings, output, choose_hardware(device, readers)):
        return
    first = device.split(",")[0] if device else None
    load = partial(load_predictor, windows=windows, device=first, glass=glass)
    results = compare_networks(output, compare, masks is not None, load, images, reporter())
    _say_results(results, output)


def _check_folders(
    folders: Mapping[str, Path], description: Description, mask_map: str | None, any_palette: bool, most: int
) -> dict[str, tuple[MaskedImage, ...]]:
    """Return the images with masks in each option's folder; refuse folders that share an image."""
    from synthpipe.segment.mask_check import check_disjoint

    checked = {
        option: checked_images(folder, description, mask_map, any_palette, most) for option, folder in folders.items()
    }
    check_disjoint(checked)
    return {option: each.images for option, each in checked.items()}


def _check_classes(compare: Iterable[Path], windows: tuple[str, ...], curated: Location, taxonomy: Taxonomy) -> None:
    """Refuse a checkpoint whose classes differ from the curated set's, or whose canvas the windows do not fit."""
    from synthpipe.segment.checkpoint import Checkpoint

    for path in compare:
        other = Checkpoint.load(path).description
        windows_for(other, windows)
        if changes := list(differences(taxonomy.to_json(), other.taxonomy.to_json())):
            raise ConfigError("\n  ".join([f"--compare {path}: has other classes than {curated}:", *changes]))


def _train_bounds(
    trainings: Mapping[str, tuple[TrainSettings, TrainingData]], output: Path, hardware: Hardware
) -> bool:
    """Train the bounds; return whether this process must then measure the bounds."""
    for name, (settings, data) in trainings.items():
        outcome = run_training(settings, data, output / name, hardware)
        if not outcome.finished:
            say_outcome(outcome, output / name)
            return False
    return outcome.first_process  # processes of the other devices only train


def _say_results(results: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    from synthpipe.segment.references import BASELINES

    best = results.get(BASELINES["test-masks"], {"miou": None})["miou"]
    most_frequent = results[BASELINES["test-labels"]]["constant"]
    say(f"mIoU {most_frequent['miou']:.4f} if every pixel were {most_frequent['class']}")
    for name, result in results.items():
        share = f"  {result['miou'] / best:5.1%} of the upper bound" if best else ""
        say(f"{miou_text(result)}  fwIoU {result['fwiou']:.4f}{share}  {name}")
    say(f"{output}: wrote baseline.json, and metrics and pictures of each network in test-*/")
