"""Running tasks on Dask: the cluster, its workers, the bounded window, and what a worker prepares once."""

# isort: off
import synthpipe.runtime.site  # noqa: F401  # first: it tells what is wrong with Dask's settings

# isort: on
from synthpipe.runtime.cluster import Cluster, check_reachable, open_cluster
from synthpipe.runtime.job_settings import JobSettings, parse_size
from synthpipe.runtime.local import available_memory, visible_gpus
from synthpipe.runtime.progress import announce, announced
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
from synthpipe.runtime.submission import run_tasks

__all__ = [
    "QUEUE_KINDS",
    "Cluster",
    "ClusterSettings",
    "Demand",
    "DeviceUse",
    "ExistingCluster",
    "JobQueue",
    "JobSettings",
    "Local",
    "QueueKind",
    "Tls",
    "announce",
    "announced",
    "available_memory",
    "check_reachable",
    "open_cluster",
    "parse_size",
    "run_tasks",
    "visible_gpus",
]
