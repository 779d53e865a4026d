"""Choose the devices on which the segmentation stage runs, and start its processes there."""

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
    """The devices of a training, and its reading processes.

    Attributes
    ----------
    device : str or None
        Devices separated by commas, such as ``cuda:0,cuda:1``; each gets its own process. A kind without a number
        means any device of that kind. None means all GPUs, or the CPU if the machine has no GPU.
    readers : int
        Processes per device that read images ahead.
    """

    device: str | None = None
    readers: int = 0


def choose_hardware(device: str | None, readers: int | None) -> Hardware:
    """Return the hardware of a training; by default, 4 processes per GPU read ahead, and none on a CPU."""
    on_gpu = (device or "cuda").startswith("cuda") and torch.cuda.is_available()
    return Hardware(device, (4 if on_gpu else 0) if readers is None else readers)


def open_fabric(hardware: Hardware, mixed: bool) -> Fabric:
    """Start the processes of a training.

    Parameters
    ----------
    hardware : Hardware
        The devices to use.
    mixed : bool
        Whether to compute in bfloat16 if the device is a GPU that supports it; weights stay float32.

    Raises
    ------
    ConfigError
        This machine does not have these devices.
    """
    # some weights get no gradient: the head of an EfficientNet, and outputs that no loss uses
    several: Any = DDPStrategy(find_unused_parameters=True)
    # in a Slurm job of one task, Lightning would wait for Slurm to start the other devices' processes
    alone = os.environ.get("SLURM_NTASKS") == "1" and not TorchElasticEnvironment.detect()
    plugins: Any = [LightningEnvironment()] if alone else None
    accelerator, devices = _accelerator(hardware.device)
    warnings.filterwarnings("ignore", "The `srun` command is available")  # appears on login nodes; srun is not needed
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
    """Split a ``--device`` value into Lightning's accelerator name, and the devices' numbers or count."""
    if device is None:
        return "auto", "auto"
    kinds, _, numbers = zip(*(each.strip().partition(":") for each in device.split(",")), strict=True)
    numbered = kinds[0] != "cpu" and all(map(str.isdecimal, numbers))
    if not kinds[0] or len(set(kinds)) > 1 or (any(numbers) and not numbered):
        raise ConfigError(f"--device {device}: expected devices of one kind, such as cuda:0,cuda:1, or cpu")
    return kinds[0], [int(number) for number in numbers] if numbered else len(kinds)


def on_rank_zero(fabric: Fabric, work: Callable[[], object]) -> None:
    """Run `work` only in the first process; if it fails, raise its error in all processes, so that none hangs."""
    failure: SynthpipeError | OSError | None = None
    if fabric.is_global_zero:
        try:
            work()
        except (SynthpipeError, OSError) as error:
            failure = error
    if failure := fabric.broadcast(failure):
        raise failure


def share_buffers(fabric: Fabric, module: torch.nn.Module) -> None:
    """Give all processes the buffers of the first process, because running means differ between devices."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device is a GPU with native bfloat16 (Ampere or later); older GPUs emulate it slowly."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def peak_device_memory(device: torch.device) -> int | None:
    """Return the peak GPU memory of this process in bytes, since the peak was last reset; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """Return a device's name for people: the model of a GPU, or the kind of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Use deterministic algorithms in the block on a CPU; on a GPU, some gradients have no such algorithm."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu" or before[0], warn_only=before[1])
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
