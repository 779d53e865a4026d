"""The parts that run the README's commands one after the other, and a build by two workers that share a GPU."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from benchmarks.gpu.bench import DEMO, PIPELINES, Bench, command, options
from benchmarks.gpu.part_results import PartResults
from synthpipe.build import build
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.progress import Silent
from synthpipe.core.records import STRATEGIES
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.filter_report import load_report
from synthpipe.storage.run import RunDirectory


def whole_chain(bench: Bench, found: PartResults) -> None:
    """Make the phantom, build a run, verify it, train a network and evaluate it."""
    patches, run = demo_patches(bench), bench.folder / "demo"
    start = time.perf_counter()
    _build_demo(bench, run)
    found.row("build", {"seconds": time.perf_counter() - start})
    reports = [load_report(RunDirectory(run).report(strategy)) for strategy in STRATEGIES]
    found.check("filters are trained on the device", {report.device for report in reports} == {str(bench.device)})
    command("verify", run)
    found.check("verify finds no fault", True)
    training = bench.folder / "demo-training"
    command(
        *("train", run / "curated.zarr", "--real", patches, "--val", patches / "2.validation"),
        *("--config", PIPELINES / "training" / "demo.yaml", "-o", training),
        *options("network.weights=null", "epochs=2", "steps_per_epoch=6", *bench.scale.demo_set),
    )
    report = json.loads((training / "report.json").read_text(encoding="utf-8"))
    found.check("a training takes all its steps", report["steps"] == 12)
    test = bench.folder / "demo-test"
    command("evaluate", training / "best.ckpt", "--data", patches / "3.testing", "-o", test)
    metrics = json.loads((test / "metrics.json").read_text(encoding="utf-8"))
    found.check("an evaluation has a mean IoU", 0 <= metrics["miou"] <= 1)


def shared_card(bench: Bench, found: PartResults) -> None:
    """Build the demo by two workers that share the card, and compare the bytes with those of one worker."""
    one, two = bench.folder / "demo", bench.folder / "demo-shared"
    _build_demo(bench, one)  # already built, unless this part runs alone
    gpus = (os.environ["CUDA_VISIBLE_DEVICES"],) * 2 if bench.on_gpu else None
    start = time.perf_counter()
    build(demo_pipeline(bench), two, ClusterSettings(Local(2, gpus=gpus), device="cuda" if gpus else "cpu"), Silent())
    found.row("build by two workers", {"seconds": time.perf_counter() - start})
    found.check("two workers on one device make equal bytes", _digest(one) == _digest(two))


def demo_patches(bench: Bench) -> Path:
    """Return the folder of the phantom; make it if it is missing."""
    patches = bench.folder / "phantom"
    if not patches.exists():
        command("phantom", patches, "--patch-count", 60, "--image-count", 2)
    return patches


def demo_pipeline(bench: Bench) -> Pipeline:
    """Return the demo's pipeline at the scale's size."""
    return pipeline_file.load(DEMO, (f"patches.root={demo_patches(bench)}", *bench.scale.build_set))


def _build_demo(bench: Bench, run: Path) -> None:
    device = "cuda" if bench.on_gpu else "cpu"
    sets = options(f"patches.root={demo_patches(bench)}", *bench.scale.build_set)
    command("build", DEMO, "-o", run, *sets, "--workers", 2, "--device", device)


def _digest(run: Path) -> str:
    """Return the SHA-256 of the curated images and masks, and of all scores."""
    found = hashlib.sha256()
    for folder in (*(run / "curated.zarr" / name for name in ("image", "mask")), *run.glob("candidates.zarr/*/p_real")):
        for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "zarr.json"):
            found.update(path.read_bytes())
    return found.hexdigest()
