"""Find the rank of this process among the processes of a training, from torch.distributed or a launcher."""

from __future__ import annotations

import os

from torch import distributed

from synthpipe.core.errors import ConfigError

_LAUNCHERS = (
    (("RANK", "WORLD_SIZE"), None),  # torchrun
    # a step of Slurm; a job script has these variables too, but is one process
    (("SLURM_PROCID", "SLURM_NTASKS"), "SLURM_STEP_ID"),
)


def share_of(rank: int | None = None, world: int | None = None) -> tuple[int, int]:
    """Return this process's rank and the number of processes, as given or as torch.distributed or a launcher sets them.

    Raises
    ------
    ConfigError
        The given values differ from the set ones, so processes would read some samples twice and others never.
    """
    known = _known()
    if known is None:
        return rank or 0, 1 if world is None else world
    (found, size), where = known
    if rank not in (None, found) or world not in (None, size):
        raise ConfigError(
            f"got rank {found if rank is None else rank} of {size if world is None else world}, but by {where} it is "
            f"{found} of {size}; leave out rank and world, and make the loader after the processes have started"
        )
    return found, size


def _known() -> tuple[tuple[int, int], str] | None:
    if distributed.is_available() and distributed.is_initialized():
        return (distributed.get_rank(), distributed.get_world_size()), "torch.distributed"
    for names, sign in _LAUNCHERS:
        rank, world = (os.environ.get(name, "") for name in names)
        if rank.isdecimal() and world.isdecimal() and (sign is None or sign in os.environ):
            return (int(rank), int(world)), " and ".join(names)
    return None
