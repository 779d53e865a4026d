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
    """Return this process's rank and the number of processes, from torch.distributed, a launcher, or the arguments.

    Raises
    ------
    ConfigError
        The arguments differ from torch.distributed or the launcher: some samples would be read twice, and others never.
    """
    known = _known()
    if known is None:
        return rank or 0, 1 if world is None else world
    (found, size), where = known
    if rank not in (None, found) or world not in (None, size):
        raise ConfigError(
            f"rank {found if rank is None else rank} of {size if world is None else world}: by {where} this process is "
            f"rank {found} of {size}; leave rank and world out, and make the loader after the processes are started"
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
