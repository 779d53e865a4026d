"""``report.json``: how fast a training ran, where, and the best validation score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from synthpipe.files.writing import write_atomically
from synthpipe.segment.devices import device_name, peak_device_memory

_WARM_UP = 50  # steps that are left out of the speed


def write_report(
    path: Path,
    facts: Mapping[str, Any],
    fabric: Fabric,
    images: int,
    seconds: float,
    rows: Sequence[Mapping[str, float]],
) -> None:
    """Write the report of a finished training.

    Parameters
    ----------
    path : Path
        ``report.json``.
    facts : mapping
        Keys of the report that the training knows.
    fabric : Fabric
        The devices.
    images : int
        Images of a step, of all devices.
    seconds : float
        Duration of the last run of this training, from start or resumption to its end.
    rows : sequence of mapping
        Rows of ``steps.csv`` of that run.
    """
    rows = rows[_WARM_UP:] or rows[1:]
    busy = sum(row["seconds"] for row in rows)
    report = {
        **facts,
        "device": device_name(fabric.device),
        "devices": fabric.world_size,
        "precision": str(fabric._precision.precision),
        "seconds": seconds,
        "images_a_second": images * len(rows) / busy if busy else None,
        "waiting_share": sum(row["waiting"] for row in rows) / busy if busy else None,
        "peak_device_memory": peak_device_memory(fabric.device),
    }
    write_atomically(path, json.dumps(report, indent=1) + "\n")
