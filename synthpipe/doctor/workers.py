"""Check this machine's cores, memory and GPUs for workers, and check Dask."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

from synthpipe.core.errors import SynthpipeError
from synthpipe.core.packages import absent
from synthpipe.core.threads import available_cores
from synthpipe.doctor.check_result import CheckResult, checked
from synthpipe.runtime import ClusterSettings, Demand, Local, available_memory, open_executor, visible_gpus

_MEMORY = 2 << 30  # bytes per worker


def workers() -> Iterator[CheckResult]:
    """Check the resources of this machine for workers."""
    yield from checked("processor", processor)
    yield from checked("GPU", gpu)
    yield from checked("Dask", dask)


def processor() -> CheckResult:
    """Check the number of cores, and the memory of a worker if there is one worker per core."""
    cores = available_cores()
    memory = available_memory()
    share = memory // cores
    found = f"{cores} cores, {memory / 2**30:.1f} GiB: {share / 2**30:.1f} GiB for each of {cores} workers"
    if share >= _MEMORY:
        return CheckResult("processor", "fine", found)
    fewer = max(1, memory // _MEMORY)
    return CheckResult(
        "processor", "note", found, f"give --workers {fewer}: large canvases need about 2 GiB per worker"
    )


def gpu() -> CheckResult:
    """Check whether torch uses the GPUs of this machine."""
    if not shutil.which("nvidia-smi"):
        cure = "the filter trains on the CPU, fast enough for small networks; or use a cluster with GPUs (--scheduler)"
        return CheckResult("GPU", "note", "no NVIDIA driver", cure)
    if absent("torch"):
        return CheckResult("GPU", "note", "a driver, but torch is not installed", "rendering needs no GPU")
    if seen := visible_gpus():
        return CheckResult("GPU", "fine", f"torch sees {len(seen)}")
    cure = "install the torch build for your CUDA driver, and check CUDA_VISIBLE_DEVICES"
    return CheckResult("GPU", "wrong", "a driver, but torch sees no GPU", cure)


def dask() -> CheckResult:
    """Start a cluster of one worker process, and run a task on it."""
    begun = time.perf_counter()
    try:
        with open_executor(ClusterSettings(Local(workers=1), device="cpu"), Demand(), lambda _: None) as executor:
            (pid,) = executor.run(_process_id, [None])
            seconds = time.perf_counter() - begun
            return CheckResult("Dask", "fine", f"a worker process ({pid}) was ready in {seconds:.1f} s")
    except (SynthpipeError, OSError, TimeoutError) as error:
        cure = (
            "fix the problem in the message; if it names none, check whether a firewall blocks the loopback interface"
        )
        return CheckResult("Dask", "wrong", f"no worker could start: {error}", cure)


def _process_id(*_: object) -> int:
    return os.getpid()
