"""Settings of where a build runs: this machine, an existing Dask cluster, or jobs of a queueing system."""

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
    """Worker processes on this machine, which listen on its loopback address only, or this process alone.

    Attributes
    ----------
    workers : int or None
        Number of worker processes; by default one a core. With 0, this process runs all tasks itself, one after the
        other: it alone can read and write ``memory:`` URLs.
    memory : int or None
        Bytes that each may use; by default an even share of the machine's memory, and what the task in hand needs
        beyond that.
    gpus : tuple of str or None
        CUDA devices, one a worker; by default those that torch sees.
    """

    workers: int | None = None
    memory: int | None = None
    gpus: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files that prove to the machines of a cluster that they belong together."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ExistingCluster:
    """A Dask cluster that someone else started: the scheduler's address, or the file that it wrote."""

    scheduler: str
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class JobQueue:
    """Jobs of a queueing system, each with worker processes."""

    kind: QueueKind
    jobs: JobSettings = field(default_factory=JobSettings)
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings of where and how a build runs.

    Attributes
    ----------
    where : Local, ExistingCluster or JobQueue
        The machines.
    device : {"auto", "cuda", "cpu"}
        Where filters score and train: ``cuda``: only on workers with the resource GPU; ``auto``: on those where there
        are any, else on any; ``cpu``: on any worker.
    patience : float
        Seconds to wait for a worker, or for one with a GPU, before giving up.
    scratch : Path or None
        Folder on the own disk of each machine for the donor bank; by default its temporary directory.
    """

    where: Local | ExistingCluster | JobQueue = Local()
    device: DeviceUse = "auto"
    patience: float = 600.0
    scratch: Path | None = None

    @property
    def scratch_on_nodes(self) -> Path | None:
        """The folder of `scratch`; jobs that name a local directory have it there."""
        if self.scratch is None and isinstance(self.where, JobQueue) and self.where.jobs.local_directory:
            return Path(self.where.jobs.local_directory)
        return self.scratch


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that tasks need beyond a worker's own share, in bytes.

    Attributes
    ----------
    shared : int
        Files that all workers of a machine map: the machine has them once, but each worker's count has them. What each
        keeps of every donor, the machine has as often as there are workers: it is of their own shares.
    training : int
        What a filter's training holds, while other workers are idle.
    """

    shared: int = 0
    training: int = 0

    def limit(self, total: int, processes: int) -> int:
        """Return what each of some processes may use of a machine's memory."""
        return min(total, total // processes + self.shared + self.training)
