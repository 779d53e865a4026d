"""What the commands of the segmentation stage share: reading their inputs, and reporting results."""

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

if TYPE_CHECKING:  # torch takes seconds to load, which `--help`, other commands and refused ones need not wait for
    from synthpipe.segment.devices import Hardware
    from synthpipe.segment.evaluation import Predictor
    from synthpipe.segment.mask_check import CheckedImages
    from synthpipe.segment.settings import TrainSettings, WindowSection
    from synthpipe.segment.training_records import Outcome


def training_settings(config: Path | None, overrides: tuple[str, ...]) -> TrainSettings:
    """Read the settings of a training; a file of weights that is not there is refused at once."""
    from synthpipe.segment.settings import TrainSettings

    settings = load_settings(TrainSettings, config, overrides)
    file = settings.network.weights_file
    if file and isinstance(path := parse_location(file), Path) and not path.exists():
        raise ConfigError(f"network.weights: {file}: not found; give a file that every training machine can read")
    return settings


def real_catalog(real: Location, layout: Layout | None, description: Description, most: int) -> Catalog:
    """Read the real patches: laid out as those of the build, unless `layout` says otherwise.

    Patches that cannot be used are left out with a note: these commands have no key ``patches.on_error``.
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
    """Note which glass is ignored if the build of the composites looked for none."""
    if glass and not description.glass:
        reporter().note(
            f"note: the build of the composites looked for no glass; areas above grey {PUBLISHED_GLASS.threshold} of "
            f"{PUBLISHED_GLASS.min_area} pixels and more are ignored as glass (--no-glass keeps them)"
        )


def load_predictor(checkpoint: Path, windows: tuple[str, ...], device: str | None, glass: bool) -> Predictor:
    """Load a checkpoint, with what the options say of windows, device and glass."""
    from synthpipe.pretrained.devices import choose_device
    from synthpipe.segment.evaluation import Predictor

    predictor = Predictor.load(checkpoint, device=choose_device(device), glass=glass)
    return replace(predictor, windows=windows_for(predictor.checkpoint.description, windows))


def check_windows(windows: tuple[str, ...]) -> None:
    """Refuse a --window that no network can take, before one is loaded."""
    _window_settings((LARGEST, LARGEST), windows)


def windows_for(description: Description, windows: tuple[str, ...]) -> WindowSection:
    """Return how images are cut for a network of that canvas, with what --window replaces."""
    return _window_settings(description.size, windows)


def _window_settings(size: tuple[int, int], windows: tuple[str, ...]) -> WindowSection:
    from synthpipe.segment.settings import WindowSection, default_windows

    defaults = default_windows(size).model_dump(mode="json")
    base = [f"{key}={json.dumps(value)}" for key, value in defaults.items()]
    return load_settings(WindowSection, None, (*base, *windows), option="--window")


def run_training(settings: Any, data: Any, output: Path, hardware: Hardware) -> Outcome:
    """Train until the end, or until the first interrupt, which ends with a checkpoint; a second one stops at once."""
    from synthpipe.segment import training

    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt  # asked twice
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = training.train(settings, data, output, hardware, reporter(), lambda: bool(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked and outcome.finished:  # during its last validation; what comes after is not begun
        raise KeyboardInterrupt
    return outcome


def say_outcome(outcome: Outcome, output: Path) -> None:
    """Print the result of a training, or that it stopped before its end."""
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
    """Return a line on how fast the network was trained; none where that was but a few steps."""
    if not report["images_a_second"]:
        return ""
    peak = report["peak_device_memory"]
    memory = f", at most {human_bytes(peak)} of GPU memory" if peak else ""
    rate, waiting = report["images_a_second"], report["waiting_share"]
    return (
        f"  speed     {rate:.1f} images a second, {waiting:.1%} of the time waiting for data{memory}; "
        f"{report['precision']} on {report['devices']} x {report['device']}\n"
    )


def _constant(report: Mapping[str, Any]) -> str:
    """Return the mIoU of one class everywhere, for comparison; an empty text for reports of earlier versions."""
    found = report.get("constant")
    return f" ({found['miou']:.4f} if every pixel were {found['class']})" if found else ""


def miou_text(result: Mapping[str, Any]) -> str:
    """Return the mIoU, with its interval where there are images to draw from."""
    low, high = result["intervals"]["miou"]
    return f"mIoU {result['miou']:.4f}" + (f" ({low:.4f} to {high:.4f})" if len(result["images"]) > 1 else "")
