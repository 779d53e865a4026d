"""Write the ``report.json`` of a training: its speed, its devices and its best validation score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from synthpipe.files.writing import write_atomically
from synthpipe.segment.devices import device_name, peak_device_memory

_WARM_UP = 50  # number of first steps that do not count for the speed


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
        Path of ``report.json``.
    facts : mapping
        More keys and values of the report.
    fabric : Fabric
        The devices.
    images : int
        Number of images per step, over all devices.
    seconds : float
        Duration of the last run of this training, from its start or its resumption to its end.
    rows : sequence of mapping
        Rows of ``steps.csv`` for the steps of that run.
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
