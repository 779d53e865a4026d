"""Checks of the cores, memory and GPUs for workers on this machine, and of Dask."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

from synthpipe.core.errors import SynthpipeError
from synthpipe.core.packages import absent
from synthpipe.core.threads import available_cores
from synthpipe.doctor.finding import Finding, checked
from synthpipe.runtime import ClusterSettings, Demand, Local, available_memory, open_executor, visible_gpus

_MEMORY = 2 << 30  # bytes a worker


def workers() -> Iterator[Finding]:
    """Yield the findings about the workers of this machine."""
    yield from checked("processor", processor)
    yield from checked("GPU", gpu)
    yield from checked("Dask", dask)


def processor() -> Finding:
    """Check the cores, and the memory of each worker when there is one per core."""
    cores = available_cores()
    memory = available_memory()
    share = memory // cores
    found = f"{cores} cores, {memory / 2**30:.1f} GiB: {share / 2**30:.1f} GiB for each of {cores} workers"
    if share >= _MEMORY:
        return Finding("processor", "fine", found)
    fewer = max(1, memory // _MEMORY)
    return Finding("processor", "note", found, f"give --workers {fewer}: large canvases need some 2 GiB a worker")


def gpu() -> Finding:
    """Check whether torch uses the GPUs of this machine."""
    if not shutil.which("nvidia-smi"):
        cure = "the filter trains on the CPU: fine for small networks; or join a cluster with GPUs (--scheduler)"
        return Finding("GPU", "note", "no NVIDIA driver", cure)
    if absent("torch"):
        return Finding("GPU", "note", "a driver, but torch is not installed", "none is needed to render")
    if seen := visible_gpus():
        return Finding("GPU", "fine", f"{len(seen)} that torch sees")
    cure = "install the torch build for your CUDA driver, and look at CUDA_VISIBLE_DEVICES"
    return Finding("GPU", "wrong", "a driver, but torch sees no GPU", cure)


def dask() -> Finding:
    """Start a cluster of one worker process, and run a task on it."""
    begun = time.perf_counter()
    try:
        with open_executor(ClusterSettings(Local(workers=1), device="cpu"), Demand(), lambda _: None) as executor:
            (pid,) = executor.run(_process_id, [None])
            seconds = time.perf_counter() - begun
            return Finding("Dask", "fine", f"a worker process ({pid}) was ready in {seconds:.1f} s")
    except (SynthpipeError, OSError, TimeoutError) as error:
        cure = "mend what is named; if nothing is, see whether a firewall closes the loopback interface"
        return Finding("Dask", "wrong", f"no worker: {error}", cure)


def _process_id(*_: object) -> int:
    return os.getpid()
