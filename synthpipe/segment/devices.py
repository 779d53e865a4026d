"""Where the segmentation stage runs: one device or several."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException

from synthpipe.core.errors import ConfigError, SynthpipeError, is_of_memory


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where training runs.

    Attributes
    ----------
    device : str or None
        Devices with commas between, each with a process of its own, such as ``cuda:0,cuda:1``; a kind without a number
        is any one. None: all GPUs, or the CPU where there is none.
    readers : int
        Processes of each device that read ahead.
    """

    device: str | None = None
    readers: int = 0


def choose_hardware(device: str | None, readers: int | None) -> Hardware:
    """Return the hardware of a training; by default 4 processes read ahead for each GPU, and none for a CPU."""
    on_gpu = (device or "cuda").startswith("cuda") and torch.cuda.is_available()
    return Hardware(device, (4 if on_gpu else 0) if readers is None else readers)


def open_fabric(hardware: Hardware, mixed: bool) -> Fabric:
    """Start the processes of a training.

    Parameters
    ----------
    hardware : Hardware
        Where it runs.
    mixed : bool
        Whether to compute in bfloat16 where the device is a GPU that has it; weights stay float32.

    Raises
    ------
    ConfigError
        There is no such hardware.
    """
    # some weights get no gradient: the head of an EfficientNet, and what no loss asks
    several: Any = DDPStrategy(find_unused_parameters=True)
    # in a job of one task Lightning would wait for Slurm to start the processes of the other devices
    alone = os.environ.get("SLURM_NTASKS") == "1" and not TorchElasticEnvironment.detect()
    plugins: Any = [LightningEnvironment()] if alone else None
    accelerator, devices = _accelerator(hardware.device)
    warnings.filterwarnings("ignore", "The `srun` command is available")  # on login nodes: it is not needed
    try:
        found = Fabric(accelerator=accelerator, devices=devices, plugins=plugins)
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            plugins=plugins,
            strategy=several if found.world_size > 1 else "auto",
            precision="bf16-mixed" if mixed and has_bfloat16(found.device) else "32-true",
        )
        fabric.launch()
    except (RuntimeError, TypeError, ValueError, MisconfigurationException) as error:
        if is_of_memory(error):
            raise
        raise ConfigError(
            f"--device {hardware.device or 'auto'}: {' '.join(str(error).split())}; name devices that this machine has"
        ) from error
    return fabric


def _accelerator(device: str | None) -> tuple[str, int | str | list[int]]:
    """Return what Lightning calls the kind of some devices, and their numbers, or how many they are."""
    if device is None:
        return "auto", "auto"
    kinds, _, numbers = zip(*(each.strip().partition(":") for each in device.split(",")), strict=True)
    numbered = kinds[0] != "cpu" and all(map(str.isdecimal, numbers))
    if not kinds[0] or len(set(kinds)) > 1 or (any(numbers) and not numbered):
        raise ConfigError(f"--device {device}: expected devices of one kind, such as cuda:0,cuda:1, or cpu")
    return kinds[0], [int(number) for number in numbers] if numbered else len(kinds)


def on_rank_zero(fabric: Fabric, work: Callable[[], object]) -> None:
    """Let the first process do something for all; where it fails, all do: none is left waiting for it."""
    failure: SynthpipeError | OSError | None = None
    if fabric.is_global_zero:
        try:
            work()
        except (SynthpipeError, OSError) as error:
            failure = error
    if failure := fabric.broadcast(failure):
        raise failure


def choose_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or the first GPU, or the CPU where there is none.

    Raises
    ------
    ConfigError
        There is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_of_memory(error):  # the GPU is there, but its memory is full
            raise
        raise ConfigError(
            f"--device {name}: {str(error).splitlines()[0]}; name one that there is, as cpu or cuda:0"
        ) from error
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device is a GPU that computes in bfloat16 itself: Ampere and later; others only imitate it, slowly."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def peak_device_memory(device: torch.device) -> int | None:
    """Return the most bytes that a GPU held for this process since that was counted anew; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """Return what a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On a CPU, have the same training give the same bits; GPUs have no deterministic form of some gradients."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu" or before[0], warn_only=before[1])
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
