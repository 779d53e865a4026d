"""Running tasks on Dask: the client, the bounded window, and what a worker prepares once."""

from synthpipe.runtime.cluster import available_cores, local_client
from synthpipe.runtime.progress import announce, announced
from synthpipe.runtime.window import run_tasks

__all__ = ["announce", "announced", "available_cores", "local_client", "run_tasks"]
