"""Start a cluster of worker processes on this machine, each with at most one GPU."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess  # nosec B404 # starts only this Python, without a shell
import sys
from contextlib import suppress
from typing import Any

from dask.utils import format_bytes
from distributed import Nanny, Security, SpecCluster, scheduler, system, worker

from synthpipe.core.errors import ClusterError
from synthpipe.core.threads import available_cores
from synthpipe.runtime.servers import Scheduler, Worker
from synthpipe.runtime.settings import Demand, DeviceUse, Local
from synthpipe.runtime.site import starting
from synthpipe.runtime.workers import GPU

_LOOPBACK = "127.0.0.1"
_LEAST_MEMORY = 256 << 20
_STARTS = 3
VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = "--device cuda: torch sees no GPU on this machine; remove this option, or give --device cpu"
_REMEMBERING = "spans"  # Dask's extension that keeps a record of every task until the end


def local_cluster(local: Local, device: DeviceUse, demand: Demand) -> Any:
    """Start single-threaded worker processes that listen only on the loopback address, and only to each other.

    Other users of the machine can reach this address too. So all processes use TLS, with a new key that they receive
    through pipes.

    Raises
    ------
    ClusterError
        The processes cannot be started.
    """
    count = local.workers or available_cores()
    memory = local.memory or demand.limit(available_memory(), count)
    if memory < _LEAST_MEMORY:
        raise ClusterError(
            f"--memory: {format_bytes(memory)} per worker is too little: an idle worker needs about "
            f"{format_bytes(_LEAST_MEMORY)}; give more, or use fewer --workers"
        )
    devices = devices_of(local, device, demand)
    extensions = {name: kind for name, kind in worker.DEFAULT_EXTENSIONS.items() if name != _REMEMBERING}
    network = encrypted()
    common = {
        **network,
        "nthreads": 1,
        "memory_limit": memory,
        "extensions": extensions,
    }
    workers = {}
    for number in range(count):
        owned = devices[number : number + 1]
        resources = {"resources": {GPU: 1}} if owned else {}
        process = {"worker_class": Worker, "env": {VISIBLE: ",".join(owned)}}
        workers[number] = {
            "cls": Nanny,
            "options": {**common, **resources, **process, "silence_logs": logging.CRITICAL},
        }
    central = {
        "cls": Scheduler,
        "options": {
            **network,
            "extensions": {name: kind for name, kind in scheduler.DEFAULT_EXTENSIONS.items() if name != _REMEMBERING},
            "port": 0,
            "dashboard": False,
        },
    }

    def make() -> Any:
        return SpecCluster(
            scheduler=central,
            workers=workers,
            security=network["security"],
            silence_logs=logging.CRITICAL,
            name="synthpipe",
        )

    with starting(f"{count} worker processes cannot be started on this machine"):
        for _ in range(_STARTS - 1):
            with suppress(OSError, RuntimeError):  # if a worker is killed during its start, the others end too
                return make()
        return make()


def encrypted() -> dict[str, Any]:
    """Return Dask's options for a cluster on the loopback address, with TLS and a new temporary key."""
    return {"host": _LOOPBACK, "protocol": "tls://", "security": Security.temporary()}


def devices_of(local: Local, device: DeviceUse, demand: Demand) -> tuple[str, ...]:
    """Return the CUDA devices for the tasks of a build, as `CUDA_VISIBLE_DEVICES` names them.

    torch is not started if no task uses a GPU.
    """
    if device == "cpu":
        return ()
    if local.gpus is not None:
        return local.gpus
    return visible_gpus() if demand.training else ()


def visible_gpus() -> tuple[str, ...]:
    """Return the CUDA devices that torch sees, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(VISIBLE)
    if named in ("", "-1") or not shutil.which("nvidia-smi"):
        return ()
    # in a separate process, so that torch does not stay in the driver's memory
    count = "import torch; print(torch.cuda.device_count())"
    command = [sys.executable, "-c", count]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603 # no user input
    seen = int(found.stdout) if found.returncode == 0 and found.stdout.strip().isdigit() else 0
    names = [name.strip() for name in named.split(",")] if named else list(map(str, range(seen)))
    return tuple(names[:seen])


def available_memory() -> int:
    """Return the bytes of memory that this process may use, within the limits of the system."""
    return int(system.MEMORY_LIMIT)
