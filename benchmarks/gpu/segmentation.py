"""The parts that train segmentation on a GPU: the speed of training, and how exactly a killed training resumes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.bench import PIPELINES, Bench, command, options
from benchmarks.gpu.part_results import PartResults
from benchmarks.training import PUBLISHED, measure, prepare
from synthpipe.config.settings_file import load_settings
from synthpipe.segment.settings import TrainSettings

_MOST_WAITING = 0.05  # largest share of the time for waiting
_CLOSE = 0.05  # largest difference of two first losses if one is computed in bfloat16
_NEAR = 0.01  # largest relative difference of the loss of the first step after a kill
_STEPS, _SAVED = 12, 4  # steps of a training that is killed, and steps between its checkpoints


def segmentation(bench: Bench, found: PartResults) -> None:
    """Train the published network in float32 and in mixed precision, and check the losses."""
    data = prepare(bench.folder / "segmentation", bench.scale.canvas)
    first = {}
    for precision, name in (("32", "float32"), ("mixed", "mixed precision")):
        changes = (
            *("network.weights=null", "epochs=1", f"steps_per_epoch={bench.scale.steps}", f"precision='{precision}'"),
            *bench.scale.training_set,
        )
        settings = load_settings(TrainSettings, PUBLISHED, changes)
        folder = bench.folder / f"training-{precision}"
        report = measure(settings, data, folder, bench.scale.workers)
        keys = ("images_a_second", "waiting_share", "gpu_utilisation")
        found.row(name, {**{key: report[key] for key in keys}, "peak_memory": report["peak_device_memory"]})
        if bench.on_gpu:
            found.check(f"{name}: waits less than 5 % for data", report["waiting_share"] < _MOST_WAITING)
        losses = _losses(folder)
        found.check(f"{name}: the loss is finite", bool(np.isfinite(losses).all()))
        first[precision] = losses[0]
    found.check("mixed precision has the same first loss as float32", abs(first["32"] - first["mixed"]) < _CLOSE)


def resuming(bench: Bench, found: PartResults) -> None:
    """Kill a training of the demo's network, resume it, and compare it with an uninterrupted one."""
    folder = bench.folder / "segmentation"
    if not (folder / "run" / "README.md").exists():
        prepare(folder, bench.scale.canvas)
    data = folder / "data"
    arguments = ["train", folder / "run" / "curated.zarr", "--real", data, "--val", data / "2.validation"]
    arguments += ["--config", PIPELINES / "training" / "demo.yaml"]
    arguments += options(
        *("network.weights=null", "epochs=1", f"steps_per_epoch={_STEPS}", f"save_steps={_SAVED}"),
        *bench.scale.demo_set,
    )
    command(*arguments, "-o", bench.folder / "alone")
    reached = _kill([*arguments, "-o", bench.folder / "killed"], bench.folder / "killed")
    command(*arguments, "-o", bench.folder / "killed")
    alone, killed = (_losses(bench.folder / name) for name in ("alone", "killed"))
    found.check("a killed training ends with the same number of steps", len(alone) == len(killed) == _STEPS)
    apart = np.abs(alone - killed)
    found.row(
        "losses of a killed and of an uninterrupted training",
        {
            "largest_difference": float(apart.max()),
            "difference_before_the_kill": float(apart[:_SAVED].max()),
            "steps_before_the_kill": reached,
        },
    )
    if bench.on_gpu:
        found.check("it resumes with nearly the same loss", bool(apart[_SAVED] < _NEAR * abs(alone[_SAVED])))
    else:
        found.check("it resumes with the same losses, bit by bit", np.array_equal(alone, killed))


def _kill(arguments: list[object], folder: Path) -> int:
    """Kill a training when it has a checkpoint; return the number of logged steps."""
    words = list(map(str, arguments))
    process = subprocess.Popen(
        [sys.executable, "-m", "synthpipe", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and not (folder / "last.ckpt").exists():
            time.sleep(0.01)
        if process.poll() is not None:
            raise RuntimeError(f"a training ended with code {process.returncode} before it could be killed")
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return len(_losses(folder))


def _losses(folder: Path) -> NDArray[np.float64]:
    """Return the loss of each step of a training."""
    with (folder / "steps.csv").open(encoding="utf-8") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])
