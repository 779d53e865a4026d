"""Measurement of a GPU's memory and utilisation during a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from benchmarks.training import utilisation


@contextmanager
def watched(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row that gets, after the block, the GPU's median utilisation in percent and peak memory in bytes."""
    row: dict[str, Any] = {}
    if device.type != "cuda":
        yield row
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    with utilisation() as seen:
        yield row
    if seen:
        row["gpu_utilisation"] = median(seen)
    row["peak_memory"] = torch.cuda.max_memory_allocated(device)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
