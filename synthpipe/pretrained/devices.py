"""Choose the device on which a network computes."""

from __future__ import annotations

import torch

from synthpipe.core.errors import ConfigError, is_of_memory


def choose_device(name: str | None = None) -> torch.device:
    """Return the device called `name`. Without a name, return the first GPU, or the CPU if there is no GPU.

    Raises
    ------
    ConfigError
        This machine has no such device, or it is the device ``meta``, which computes nothing.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("this device computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_of_memory(error):  # the GPU exists, but its memory is full
            raise
        raise ConfigError(
            f"--device {name or 'auto'}: {str(error).splitlines()[0]}; give an existing device, such as cpu or cuda:0"
        ) from error
    return device
