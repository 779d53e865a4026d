"""Run tasks in this process, or on a Dask cluster that receives only a few tasks at a time."""

# isort: off
import synthpipe.runtime.site  # noqa: F401  # first: its error explains wrong Dask settings

# isort: on
from synthpipe.runtime.cluster import DaskExecutor, check_reachable
from synthpipe.runtime.executor import Executor, WorkerSetup
from synthpipe.runtime.job_settings import JobSettings, parse_size
from synthpipe.runtime.local import available_memory, visible_gpus
from synthpipe.runtime.opening import open_executor
from synthpipe.runtime.progress import announce
from synthpipe.runtime.serial import SerialExecutor
from synthpipe.runtime.settings import (
    QUEUE_KINDS,
    ClusterSettings,
    Demand,
    DeviceUse,
    ExistingCluster,
    JobQueue,
    Local,
    QueueKind,
    Tls,
)

__all__ = [
    "QUEUE_KINDS",
    "ClusterSettings",
    "DaskExecutor",
    "Demand",
    "DeviceUse",
    "Executor",
    "ExistingCluster",
    "JobQueue",
    "JobSettings",
    "Local",
    "QueueKind",
    "SerialExecutor",
    "Tls",
    "WorkerSetup",
    "announce",
    "available_memory",
    "check_reachable",
    "open_executor",
    "parse_size",
    "visible_gpus",
]
