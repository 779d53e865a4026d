"""The parts that train the filter on a GPU: its speed, and whether one seed gives the same filter twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.part_results import PartResults
from benchmarks.gpu.watching import synchronise, watched
from synthpipe.filtering.network import Architecture, FilterNetwork
from synthpipe.filtering.reproducible import reproducible

STAGES: Mapping[str, Mapping[str, object]] = {"float32": {}, "mixed precision": {"precision": "mixed"}}
"""Settings of the filter by the name of the row; each filter is trained twice, in the same way as in a build."""
_CLOSE = 0.05  # largest difference of two losses if one is computed in bfloat16


def filter_training(bench: Bench, found: PartResults) -> None:
    """Train the filter twice from one seed, in the same way as a build, and time single steps with other settings."""
    for name, changes in STAGES.items():
        _whole_stage(bench, found, name, changes)
    losses = {
        "float32": _steps(bench, found, "float32"),
        "mixed": _steps(bench, found, "mixed precision", mixed=True),
    }
    found.check("mixed precision has the same loss as float32", abs(losses["float32"] - losses["mixed"]) < _CLOSE)
    _steps(bench, found, "float32, images in torch's own order", channels_last=False)
    _steps(bench, found, "float32, not reproducible", free=True)


def compiled_training(bench: Bench, found: PartResults) -> None:
    """Time training steps of the filter with ``torch.compile``, and compare the loss."""
    plain = _steps(bench, found, "mixed precision", mixed=True)
    loss = _steps(bench, found, "mixed precision, compiled", mixed=True, compiled=True)
    found.check("compiled training has the same loss", abs(plain - loss) < _CLOSE)


def _whole_stage(bench: Bench, found: PartResults, name: str, changes: Mapping[str, object]) -> None:
    # the first training is the run's own, and warms up
    folders = [
        bench.folder / "run" / "filter" if not changes else bench.folder / f"filter {name}",
        bench.folder / "again",
    ]
    ends: list[float] = []
    first = bench.train_filter(folders[0], changes=changes)
    with watched(bench.device) as row:
        again = bench.train_filter(folders[1], lambda _: ends.append(time.perf_counter()), changes)
    shown = 2 * again.synthetic_train * (len(ends) - 1)  # the first epoch ends the preparations
    row["images_a_second"] = shown / (ends[-1] - ends[0])
    weights = [load_file(str(folder / "mosaic.safetensors")) for folder in folders]
    apart = max((weights[0][key].double() - weights[1][key].double()).abs().max().item() for key in weights[0])
    found.row(f"{name}, whole stage", {**row, "largest_difference": apart})
    found.check(f"{name}: one seed gives the same weights", first.model_sha256 == again.model_sha256)


def _steps(
    bench: Bench,
    found: PartResults,
    name: str,
    mixed: bool = False,
    channels_last: bool = True,
    compiled: bool = False,
    free: bool = False,
) -> float:
    """Time training steps on one batch that is already on the device; return the loss of the first step."""
    settings, device = bench.job.pipeline.filter, bench.device
    pixels = torch.from_numpy(bench.images[: settings.batch]).to(device)
    labels = (torch.arange(len(pixels)) % 2).to(device)
    with nullcontext() if free else reproducible(settings.threads, device, seed=0), watched(device) as row:
        torch.manual_seed(0)
        torch.set_num_threads(settings.threads)
        torch.backends.cudnn.benchmark = free
        network = FilterNetwork(Architecture(settings.network, settings.mean, settings.std), device)
        if not channels_last:
            network.module.to(memory_format=torch.contiguous_format)
        if compiled:
            module: Any = torch.compile(network.module, backend="inductor" if bench.on_gpu else "eager")
            network.module = module
        optimizer = torch.optim.Adam(network.module.parameters(), lr=settings.learning_rate)

        def step() -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                loss = cross_entropy(network.logits(pixels).float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss.detach()

        first = step().item()
        row["images_a_second"] = len(pixels) * rate(step, bench)
    torch.backends.cudnn.benchmark = False
    found.row(f"{name}, a bare step", row)
    return first


def rate(work: Callable[[], Any], bench: Bench) -> float:
    """Return the calls of `work` per second on the device, measured for the scale's seconds."""
    few = 4 if bench.on_gpu else 1
    for _ in range(few):
        work()
    synchronise(bench.device)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < bench.scale.seconds:
        for _ in range(few):
            work()
        synchronise(bench.device)
        done += few
    return done / (time.perf_counter() - start)
