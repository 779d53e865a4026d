"""Run torch so that the same input gives the same bits, and restore the process's torch settings afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from synthpipe.core.errors import FilterError, is_of_memory

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def reproducible(threads: int, device: torch.device, seed: int) -> Iterator[None]:
    """Run a block with deterministic algorithms, its own random state and a fixed number of CPU threads.

    Afterwards, the previous settings are restored. They belong to the whole process, so only one thread at a time may
    run such a block.

    Parameters
    ----------
    threads : int
        Number of CPU threads of a torch operation.
    device : torch.device
        The device on which the block computes.
    seed : int
        Seed of torch's random generators, from 0 to ``2**64 - 1``.

    Raises
    ------
    FilterError
        An operation has no deterministic form on the device, or this process used cuBLAS before with other settings.
    """
    on_gpu = device.type == "cuda"
    old_threads, old_benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    old_mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    old_workspace = os.environ.get(_WORKSPACE)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(seed)
            if on_gpu:
                torch.backends.cudnn.benchmark = False
                os.environ.setdefault(_WORKSPACE, ":4096:8")  # without it, deterministic cuBLAS refuses to run
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        except RuntimeError as error:
            if _WORKSPACE in str(error):
                raise FilterError(
                    f"{device}: this process used cuBLAS before with settings that are not deterministic; set "
                    f"{_WORKSPACE}=:4096:8 before the process starts"
                ) from error
            if "deterministic implementation" in str(error):
                raise FilterError(
                    f"filter.network: on {device} {str(error).split(', but ')[0]}; choose another filter.network, or "
                    "build with --device cpu"
                ) from error
            raise
        finally:
            torch.set_num_threads(old_threads)
            torch.use_deterministic_algorithms(old_mode[0], warn_only=old_mode[1])
            torch.backends.cudnn.benchmark = old_benchmark
            if old_workspace is None:
                os.environ.pop(_WORKSPACE, None)


@contextmanager
def explained_memory(device: torch.device, doing: str, cure: str) -> Iterator[None]:
    """Turn an out-of-memory error of the block into an error that says what to do.

    Raises
    ------
    FilterError
        The device's memory is full; the message says what was computed (`doing`) and what to do (`cure`).
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        found = (str(error).splitlines() or ["no memory is left"])[0]
        raise FilterError(f"{device}: its memory is full while {doing}: {found}; {cure}") from error
