"""Read inputs and report results of the segmentation stage; several commands share these functions."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthpipe.cli.output import say
from synthpipe.cli.progress import reporter
from synthpipe.config.fields import LARGEST
from synthpipe.config.pipeline import PUBLISHED_GLASS, Layout, PatchesSection
from synthpipe.config.settings_file import load_settings
from synthpipe.core.errors import ConfigError
from synthpipe.curated import Description
from synthpipe.files.locations import Location, address, parse_location
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.layouts import read_layout
from synthpipe.storage.summary import human_bytes

if TYPE_CHECKING:  # loading torch takes seconds, so only commands that compute load it
    from synthpipe.segment.devices import Hardware
    from synthpipe.segment.evaluation import Predictor
    from synthpipe.segment.mask_check import CheckedImages
    from synthpipe.segment.settings import TrainSettings, WindowSection
    from synthpipe.segment.training_records import Outcome


def training_settings(config: Path | None, overrides: tuple[str, ...]) -> TrainSettings:
    """Read the settings of a training, and check at once that the weights file exists."""
    from synthpipe.segment.settings import TrainSettings

    settings = load_settings(TrainSettings, config, overrides)
    file = settings.network.weights_file
    if file and isinstance(path := parse_location(file), Path) and not path.exists():
        raise ConfigError(f"network.weights: {file}: not found; give a file that every training machine can read")
    return settings


def real_catalog(real: Location, layout: Layout | None, description: Description, most: int) -> Catalog:
    """Read the real patches, in the layout of the build's patches unless another layout is given.

    Unusable patches are left out with a note, because these commands have no key ``patches.on_error``.
    """
    like = description.patches
    if layout and layout != like.layout:
        like = PatchesSection(root=address(real), layout=layout)
    patches = like.model_copy(update={"root": address(real), "max_pixels": most, "on_error": "skip"})
    claims = read_layout(patches, description.taxonomy, same_set=False)
    with reporter().stage("catalog", len(claims)) as advance:
        catalog = read_catalog(
            patches, description.taxonomy, lambda: advance(1), claims=claims, canvas=description.size
        )
    if catalog.problems:
        reporter().note(
            f"note: real patches left out because they cannot be used: {len(catalog.problems)}; the first: "
            f"{catalog.problems[0].message}"
        )
    for remark in catalog.remarks:
        reporter().note(f"note: {remark}")
    return catalog


def checked_images(
    directory: Path, description: Description, mask_map: str | None, any_palette: bool, most: int
) -> CheckedImages:
    """List and check images with masks, so that unusable ones are refused before hours of work."""
    from synthpipe.segment.mask_check import check_masks
    from synthpipe.segment.mask_values import parse_mask_map
    from synthpipe.segment.masks import masked_images

    meaning = None if mask_map is None else parse_mask_map(mask_map, description.taxonomy)
    return check_masks(masked_images(directory, most, meaning), description.taxonomy, reporter(), any_palette)


def note_glass(description: Description, glass: bool) -> None:
    """Print a note about the ignored glass if the build of the composites did not look for glass."""
    if glass and not description.glass:
        reporter().note(
            f"note: the build of the composites did not look for glass; areas of at least {PUBLISHED_GLASS.min_area} "
            f"pixels above grey {PUBLISHED_GLASS.threshold} are ignored as glass (--no-glass keeps them)"
        )


def load_predictor(checkpoint: Path, windows: tuple[str, ...], device: str | None, glass: bool) -> Predictor:
    """Load a checkpoint, with the windows, the device and the glass that the options choose."""
    from synthpipe.pretrained.devices import choose_device
    from synthpipe.segment.evaluation import Predictor

    predictor = Predictor.load(checkpoint, device=choose_device(device), glass=glass)
    return replace(predictor, windows=windows_for(predictor.checkpoint.description, windows))


def check_windows(windows: tuple[str, ...]) -> None:
    """Refuse a --window that fits no network, before a network is loaded."""
    _window_settings((LARGEST, LARGEST), windows)


def windows_for(description: Description, windows: tuple[str, ...]) -> WindowSection:
    """Return the windows for a network's canvas, with the keys that --window replaces."""
    return _window_settings(description.size, windows)


def _window_settings(size: tuple[int, int], windows: tuple[str, ...]) -> WindowSection:
    from synthpipe.segment.settings import WindowSection, default_windows

    defaults = default_windows(size).model_dump(mode="json")
    base = [f"{key}={json.dumps(value)}" for key, value in defaults.items()]
    return load_settings(WindowSection, None, (*base, *windows), option="--window")


def run_training(settings: Any, data: Any, output: Path, hardware: Hardware) -> Outcome:
    """Train to the end; the first interrupt saves a checkpoint and stops, and a second interrupt stops at once."""
    from synthpipe.segment import training

    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt  # the second interrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = training.train(settings, data, output, hardware, reporter(), lambda: bool(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked and outcome.finished:  # interrupted in the last validation, so the command must not continue
        raise KeyboardInterrupt
    return outcome


def say_outcome(outcome: Outcome, output: Path) -> None:
    """Print the result of a finished training; a stopped training raises an error that names its step."""
    from synthpipe.segment.evaluation import draw_curves

    if not outcome.first_process:
        return
    draw_curves(output, output / "curves.png")
    if not outcome.finished:
        raise click.ClickException(
            f"stopped after step {outcome.step} of {outcome.steps}; run the command again to resume"
        )
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    best, test = (shlex.quote(str(output / name)) for name in ("best.ckpt", "test"))
    say(
        f"{output}: trained {outcome.steps} steps; best validation mIoU {outcome.best_miou:.4f}, in epoch "
        f"{outcome.best_epoch}{_constant(report)}\n"
        f"{_speed(report)}"
        f"  curves    {output / 'curves.png'}, or tensorboard --logdir {output}\n"
        f"  next      synthpipe evaluate {best} --data DIR -o {test}"
    )


def _speed(report: Mapping[str, Any]) -> str:
    """Return a line about the speed of the training, or an empty text after very few steps."""
    if not report["images_a_second"]:
        return ""
    peak = report["peak_device_memory"]
    memory = f", at most {human_bytes(peak)} of GPU memory" if peak else ""
    rate, waiting = report["images_a_second"], report["waiting_share"]
    return (
        f"  speed     {rate:.1f} images per second, {waiting:.1%} of the time waiting for data{memory}; "
        f"{report['precision']} on {report['devices']} x {report['device']}\n"
    )


def _constant(report: Mapping[str, Any]) -> str:
    """Return the mIoU of one class everywhere as text; reports of earlier versions give an empty text."""
    found = report.get("constant")
    return f" ({found['miou']:.4f} if every pixel were {found['class']})" if found else ""


def miou_text(result: Mapping[str, Any]) -> str:
    """Return the mIoU as text, with its interval if there are several images."""
    low, high = result["intervals"]["miou"]
    return f"mIoU {result['miou']:.4f}" + (f" ({low:.4f} to {high:.4f})" if len(result["images"]) > 1 else "")
