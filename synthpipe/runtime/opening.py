"""Choose and open the executor of a build."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from synthpipe.runtime.cluster import open_cluster
from synthpipe.runtime.executor import Executor
from synthpipe.runtime.serial import open_serial
from synthpipe.runtime.settings import ClusterSettings, Demand, Local


def open_executor(
    settings: ClusterSettings, demand: Demand, note: Callable[[str], None], shared: Path | None = None
) -> AbstractContextManager[Executor]:
    """Open the executor that the settings describe: a cluster, or this process if the number of workers is 0.

    Parameters
    ----------
    settings : ClusterSettings
        Machines, device and waiting time.
    demand : Demand
        Memory needs of the tasks.
    note : callable
        Called with messages for the user.
    shared : Path, optional
        Folder that jobs of a queue see under the same path (default: the working directory). The keys of the jobs are
        stored there.

    Raises
    ------
    ClusterError
        The cluster cannot be started or joined, has no workers, or has no worker of the required kind.
    """
    where = settings.where
    if isinstance(where, Local) and where.workers == 0:
        return open_serial(settings, where, demand, note)
    return open_cluster(settings, demand, note, shared)
