"""How the parts run: each in a process of its own, for as long as it may.

Each part has a process of its own, because a process cannot use a GPU after a fault of it, and because a part that
takes too long can be stopped.
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

from benchmarks.gpu.found import Found

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
"""The parts in the order in which they run, and their shares of the time; `parts` has their functions."""


def run_parts(names: Iterable[str], folder: Path, cpu: bool, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part's name and what it found; none ends later than its share of `seconds` and of those before it."""
    chosen = {name: SHARES[name] for name in names}
    begun, given = time.monotonic(), 0.0
    for name, share in chosen.items():
        given += share
        end = begun + seconds * given / sum(chosen.values())
        start = time.monotonic()
        part = _run_part(name, folder, cpu, max(1.0, end - start))
        yield name, {**part, "seconds": time.monotonic() - start}


def _run_part(name: str, folder: Path, cpu: bool, seconds: float) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it had found when it ended or had to be ended."""
    result = folder / f"{name}.json"
    found = Found(result)
    found.error("it ended without a message")
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, str(folder), *(["--cpu"] if cpu else [])]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code: int | None = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):  # what it started ends with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    part: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if code is None:
        part["error"] = f"was stopped: it took more than its {seconds:.0f} s; give more --seconds, or fewer --part"
    elif code and "error" not in part:
        part["error"] = f"its process ended with code {code}"
    return part
