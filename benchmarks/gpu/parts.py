"""``python -m benchmarks.gpu.parts NAME FOLDER [--cpu]``: run one part in this process; `running` starts it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.chain import shared_card, whole_chain
from benchmarks.gpu.filtering import compiled_training, filter_training
from benchmarks.gpu.full_memory import full_memory
from benchmarks.gpu.part_results import PartResults
from benchmarks.gpu.scale import FULL, SMALL
from benchmarks.gpu.scoring import scoring
from benchmarks.gpu.segmentation import resuming, segmentation

PARTS: Mapping[str, Callable[[Bench, PartResults], None]] = {
    "filter training": filter_training,
    "scoring": scoring,
    "segmentation": segmentation,
    "whole chain": whole_chain,
    "shared card": shared_card,
    "resuming": resuming,
    "full memory": full_memory,
    "compiled": compiled_training,
}
"""The function of each part in `running.SHARES`."""


def main(name: str, folder: str, cpu: bool) -> None:
    """Run a part in this process; an error becomes a part of its result."""
    device = torch.device("cpu" if cpu else "cuda")
    found = PartResults(Path(folder) / f"{name}.json")
    try:
        PARTS[name](Bench(Path(folder), SMALL if cpu else FULL, device), found)
    except Exception as error:
        found.error(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--cpu" in sys.argv)
