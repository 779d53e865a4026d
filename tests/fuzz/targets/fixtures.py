"""A small finished run and a small checkpoint, made once by the real commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.conftest import DEMO, SMALL
from tests.fuzz.target import command, once

_TRAINING = (
    *("network.architecture=Unet", "network.encoder=tu-test_resnet", "network.weights=null", "composites=4", "real=4"),
    *("epochs=1", "steps_per_epoch=2"),
)


def phantom(cache: Path) -> Path:
    """Return a data set of ninety small patches."""
    options = ("--slide-count", "6", "--patch-count", "90", "--size", "48", "--image-count", "1")
    return once(cache, "data", lambda folder: _done("phantom", folder / "phantom", *options)) / "phantom"


def small_run(cache: Path) -> Path:
    """Return a finished run of that data set, with trained filters and 24 composites in its curated set."""
    overrides = _set([*SMALL, f"patches.root={phantom(cache)}"])

    def build(folder: Path) -> None:
        _done("build", DEMO, *overrides, "--workers", "0", "-o", folder / "run")

    return once(cache, "small", build) / "run"


def small_checkpoint(cache: Path) -> Path:
    """Return the checkpoint of a network that was trained on that run."""
    real, run = phantom(cache), small_run(cache)
    options = "--real", real, "--val", real / "2.validation", "--device", "cpu"

    def train(folder: Path) -> None:
        _done("train", run / "curated.zarr", *options, *_set(_TRAINING), "-o", folder / "out")

    return once(cache, "trained", train) / "out" / "best.ckpt"


def _set(overrides: Sequence[str]) -> list[str]:
    return [part for each in overrides for part in ("--set", each)]


def _done(*arguments: str | Path) -> None:
    if command(*arguments) is None:
        raise RuntimeError(f"{' '.join(map(str, arguments))} is refused: the fuzz command cannot make what it damages")
