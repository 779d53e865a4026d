"""The part that fills a GPU's memory: each stage must end with a message that names the setting to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from benchmarks.gpu.bench import PIPELINES, Bench, options, python
from benchmarks.gpu.chain import demo_patches, demo_pipeline
from benchmarks.gpu.part_results import PartResults
from synthpipe.build import build
from synthpipe.core.errors import FilterError
from synthpipe.core.progress import Silent
from synthpipe.filtering.network import FilterNetwork
from synthpipe.filtering.scoring import Scorer
from synthpipe.runtime import ClusterSettings, Local

_LEFT = 16 << 20  # bytes that torch can still allocate
_FULL = {
    "cuda": "torch.cuda.set_per_process_memory_fraction(0.001)",
    "cpu": "from unittest.mock import Mock; torch.optim.AdamW.step = Mock(side_effect=torch.OutOfMemoryError('full'))",
}
"""Code that leaves a process very little GPU memory; on a CPU it simulates the error."""
_COMMAND = "import sys, torch; {}; from synthpipe.cli import main; main(sys.argv[1:])"


def full_memory(bench: Bench, found: PartResults) -> None:
    """Let scoring, a filter's training, a build and a segmentation training run out of memory; check the messages."""
    weights, folder = bench.job.run.weights("mosaic"), bench.folder
    sha256 = bench.filter.model_sha256
    scorer = Scorer.load(weights)
    here = ClusterSettings(Local(0, gpus=("0",) if bench.on_gpu else None), device="auto")
    with _full(bench):
        _expect(found, "scoring", "filter.batch", lambda: scorer.score(bench.images, bench.scale.batch))
        _expect(found, "filter training", "filter.batch", lambda: bench.train_filter(folder / "full-filter"))
        _expect(found, "build", "filter.batch", lambda: build(demo_pipeline(bench), folder / "full", here, Silent()))
    again = Scorer.load(weights)
    again.score(bench.images, bench.scale.batch)
    found.check("scoring works again when memory is free", again.sha256 == sha256)
    patches = demo_patches(bench)
    message = python(
        *("-c", _COMMAND.format(_FULL[bench.device.type]), "train", bench.job.run.curated, "--real", patches),
        *("--val", patches / "2.validation", "--config", PIPELINES / "training" / "demo.yaml"),
        *("-o", folder / "full-training", *options("network.weights=null", *bench.scale.demo_set)),
        ok=False,
    )
    found.note(f"segmentation: {' '.join(message.partition('Error: ')[2].split())}")
    found.check("segmentation names the setting to change", "memory is full" in message and "composites" in message)


def _expect(found: PartResults, name: str, setting: str, work: Callable[[], object]) -> None:
    message = ""
    try:
        work()
    except FilterError as error:
        message = str(error)
    found.note(f"{name}: {' '.join(message.split()) or 'no error'}")
    found.check(f"{name} names the setting to change", setting in message)


@contextmanager
def _full(bench: Bench) -> Iterator[None]:
    """Leave this process very little GPU memory during a block; on a CPU, simulate the error."""
    if not bench.on_gpu:
        full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        with patch.object(FilterNetwork, "logits", side_effect=full):
            yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + _LEFT) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
