"""Running of the parts, each in its own process and for a limited time.

A process cannot use a GPU any more after a GPU fault, and only a process can be stopped when it takes too long.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu.part_results import PartResults

SHARES: Mapping[str, float] = {
    "filter training": 80,
    "scoring": 55,
    "segmentation": 85,
    "whole chain": 70,
    "shared card": 40,
    "resuming": 45,
    "full memory": 35,
    "compiled": 30,
}
"""The share of the time of each part, in the order in which the parts run; `parts` has their functions."""


def run_parts(names: Iterable[str], folder: Path, cpu: bool, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the result of each part.

    Each part must end within its share of `seconds` and the time that earlier parts left unused.
    """
    chosen = {name: SHARES[name] for name in names}
    begun, given = time.monotonic(), 0.0
    for name, share in chosen.items():
        given += share
        end = begun + seconds * given / sum(chosen.values())
        start = time.monotonic()
        part = _run_part(name, folder, cpu, max(1.0, end - start))
        yield name, {**part, "seconds": time.monotonic() - start}


def _run_part(name: str, folder: Path, cpu: bool, seconds: float) -> dict[str, Any]:
    """Run a part in its own process, and return its result so far when it ends or is stopped."""
    result = folder / f"{name}.json"
    found = PartResults(result)
    found.error("it ended without a message")
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, str(folder), *(["--cpu"] if cpu else [])]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code: int | None = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):  # processes that the part started end with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    part: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if code is None:
        part["error"] = f"was stopped: it took longer than its {seconds:.0f} s; give more --seconds, or fewer --part"
    elif code and "error" not in part:
        part["error"] = f"its process ended with code {code}"
    return part
