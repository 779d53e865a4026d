"""Settings for the machines of a build: this machine, an existing Dask cluster, or jobs of a queueing system."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from synthpipe.runtime.job_settings import JobSettings

DeviceUse = Literal["auto", "cuda", "cpu"]
QueueKind = Literal["slurm", "pbs", "lsf", "sge"]
QUEUE_KINDS: tuple[QueueKind, ...] = get_args(QueueKind)


@dataclass(frozen=True, slots=True)
class Local:
    """Settings of worker processes on this machine, which listen only on its loopback address.

    Attributes
    ----------
    workers : int or None
        Number of worker processes; by default one for each core. With 0, this process runs all tasks itself, one after
        the other; ``memory:`` URLs need this, because other processes cannot read them.
    memory : int or None
        Bytes that each worker may use; by default an equal share of the machine's memory, plus the extra needs of the
        current task (`Demand`).
    gpus : tuple of str or None
        CUDA devices, one for each worker; by default the devices that torch sees.
    """

    workers: int | None = None
    memory: int | None = None
    gpus: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for encrypting the connections of a cluster, and for identifying its members."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ExistingCluster:
    """A running Dask cluster, given by its scheduler's address or by the file that the scheduler wrote."""

    scheduler: str
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class JobQueue:
    """Settings of jobs of a queueing system, which run worker processes."""

    kind: QueueKind
    jobs: JobSettings = field(default_factory=JobSettings)
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings for the machines and the device of a build.

    Attributes
    ----------
    where : Local, ExistingCluster or JobQueue
        The machines.
    device : {"auto", "cuda", "cpu"}
        Workers on which filters score and train. ``cuda``: only workers with the resource GPU. ``auto``: workers with
        the resource GPU, or any worker if no worker has it. ``cpu``: any worker.
    patience : float
        Seconds to wait for a worker, or for a worker with a GPU, before the build stops.
    scratch : Path or None
        Folder on each machine's own disk for the donor bank; by default the machine's temporary directory.
    """

    where: Local | ExistingCluster | JobQueue = Local()
    device: DeviceUse = "auto"
    patience: float = 600.0
    scratch: Path | None = None

    @property
    def scratch_on_nodes(self) -> Path | None:
        """Scratch folder on the workers' machines: for jobs their ``local_directory``, otherwise `scratch`."""
        if self.scratch is None and isinstance(self.where, JobQueue) and self.where.jobs.local_directory:
            return Path(self.where.jobs.local_directory)
        return self.scratch


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that tasks need beyond a worker's own share, in bytes.

    Attributes
    ----------
    shared : int
        Files that all workers of a machine map into memory. The machine holds them once, but they count in the memory
        of each worker. Each worker's own data about donors are not in this number.
    training : int
        Memory for the training of a filter. Other workers are idle during the training.
    """

    shared: int = 0
    training: int = 0

    def limit(self, total: int, processes: int) -> int:
        """Return the memory limit of each process, for `processes` workers on a machine with `total` bytes."""
        return min(total, total // processes + self.shared + self.training)
