"""Start a Dask cluster whose workers are jobs of a queueing system."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from tempfile import NamedTemporaryFile
from typing import Any

import dask
from distributed import Status

from synthpipe.core.errors import ClusterError
from synthpipe.core.packages import require
from synthpipe.runtime.servers import Scheduler, Worker
from synthpipe.runtime.settings import Demand, JobQueue, QueueKind
from synthpipe.runtime.site import starting

_KEPT_BYTES = 256 << 20
# by default Dask's workers return freed memory at once, and get it again page by page for the next shard
WORKER_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES)}
WORKER_SETTINGS = {
    # Dask's measurements for its dashboard take a tenth of the cores' time
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "1s",
    # a worker that decodes or trains may hold the interpreter lock for long, so give it time to answer
    "distributed.comm.timeouts.connect": "120s",
    # tasks keep no data in Dask's memory that Dask could move to the disk
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}
WORKER_ENVIRONMENT = WORKER_MEMORY | {
    f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": str(value) for key, value in WORKER_SETTINGS.items()
}
"""Environment variables of workers. `docs/cluster.md` lists them for users who start their own workers."""


def check_queue(queue: JobQueue) -> None:
    """Check that this machine can submit jobs to a queue.

    Raises
    ------
    ClusterError
        The queue's command is not found.
    """
    command = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}[queue.kind]
    if shutil.which(command) is None:
        raise ClusterError(
            f"--cluster {queue.kind}: {command} is not found; build on a machine that can submit jobs, or choose the "
            "kind of queue that this machine has"
        )


def job_cluster(queue: JobQueue, demand: Demand, **options: Any) -> Any:
    """Start a scheduler in this process, with a Dask cluster that submits jobs when it is scaled.

    Raises
    ------
    ClusterError
        dask-jobqueue refuses the settings.
    MissingPackageError
        dask-jobqueue is not installed.
    """
    handler = signal.getsignal(signal.SIGINT)
    require("--cluster", "dask-jobqueue")
    import dask_jobqueue

    if signal.getsignal(signal.SIGINT) != handler:
        signal.signal(signal.SIGINT, handler)  # this import makes Ctrl-C end the process without a message
    kinds = {
        "slurm": dask_jobqueue.SLURMCluster,
        "pbs": dask_jobqueue.PBSCluster,
        "lsf": dask_jobqueue.LSFCluster,
        "sge": dask_jobqueue.SGECluster,
    }
    cluster = kinds[queue.kind]
    with starting(f"--cluster {queue.kind} cannot be started"):
        return cluster(
            job_cls=_job_class(cluster.job_cls, queue.kind),
            scheduler_cls=Scheduler,
            scheduler_options={**(_of_site(queue.kind, "scheduler-options") or {}), "dashboard": False},
            **job_options(queue, demand),
            **options,
        )


def _job_class(base: Any, kind: QueueKind) -> Any:
    """Return a subclass of `base`, a job class of dask-jobqueue, and correct some faults of `base`."""

    class Job(base):  # type: ignore[misc]
        """A job that `close` always marks as closed. Dask waits for this mark even after a failed submission."""

        refusal = ""
        """Reason why the queue refused the job."""

        def __init__(self, *arguments: Any, security: Any = None, **options: Any) -> None:
            if security is not None:
                security = copy(security)
                for file in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):  # parts of a shell script
                    setattr(security, file, shlex.quote(getattr(security, file)))
            super().__init__(*arguments, security=security, **options)

        @contextmanager
        def job_file(self) -> Iterator[str]:
            """Write the script to a new file that only this user can open."""
            with NamedTemporaryFile("w", suffix=".sh") as file:
                file.write(self.job_script())
                file.flush()
                yield file.name

        async def _submit_job(self, script_filename: str) -> Any:
            """Submit the script. If the queue refuses the job, store the reason without the script's random name."""
            try:
                return await super()._submit_job(script_filename)
            except (OSError, RuntimeError) as error:
                reason = str(error).rpartition("stderr:")[2].strip() or str(error)
                self.refusal = reason.replace(script_filename, "SCRIPT")
                raise RuntimeError(self.refusal) from error

        @classmethod
        async def in_queue(cls) -> frozenset[str] | None:
            """Return the ids of this user's waiting and running jobs, or None if unknown (always for PBS, LSF, SGE)."""
            if kind != "slurm":
                return None
            try:
                return frozenset((await cls._call(["squeue", "--noheader", "--me", "--format=%A"])).split())
            except (OSError, RuntimeError):
                return None

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    return Job


def job_options(queue: JobQueue, demand: Demand) -> dict[str, Any]:
    """Return the arguments that describe a job to dask-jobqueue's cluster."""
    jobs = queue.jobs
    lifetime, stagger = jobs.life
    worker = {
        "--nworkers": jobs.workers,
        "--worker-class": f"{Worker.__module__}.{Worker.__name__}",
        "--nthreads": 1,  # scoring and training change settings of the whole process
        "--memory-limit": demand.limit(jobs.memory, jobs.workers),
        "--lifetime": f"{lifetime}s",
        "--lifetime-stagger": f"{stagger}s",
        **({"--resources": "GPU=1"} if jobs.gpus else {}),
    }
    exports = [f"export {name}={value}" for name, value in WORKER_ENVIRONMENT.items()]
    return {
        "cores": jobs.cores,
        "memory": f"{jobs.memory}B",
        "processes": jobs.workers,
        "walltime": _walltime(queue),
        "queue": jobs.queue,
        ("account" if queue.kind in ("slurm", "pbs") else "project"): jobs.account or jobs.project,
        **_resource_spec(queue),
        "interface": jobs.interface,
        "worker_command": "synthpipe.runtime.job_worker",
        "log_directory": jobs.log_directory,
        "python": shlex.quote(jobs.python),
        "job_name": jobs.job_name,
        "job_script_prologue": [
            *exports,
            *_own_or_of_site(jobs.job_script_prologue, queue.kind, "job-script-prologue", "env-extra"),
        ],
        "job_extra_directives": [
            *_gpu_directive(queue),
            *_own_or_of_site(jobs.job_extra_directives, queue.kind, "job-extra-directives", "job-extra"),
        ],
        "job_directives_skip": _own_or_of_site(
            jobs.job_directives_skip, queue.kind, "job-directives-skip", "header-skip"
        ),
        "worker_extra_args": [  # if an option occurs twice, the last one counts
            *_own_or_of_site(None, queue.kind, "worker-extra-args", "extra"),
            *(str(part) for pair in worker.items() for part in pair),
        ],
    }


def _own_or_of_site(own: tuple[str, ...] | None, kind: QueueKind, *keys: str) -> list[str]:
    """Return the user's values. If `own` is None, return the values of the first key that Dask's settings have.

    dask-jobqueue reads these settings only for missing arguments, but synthpipe always adds its own values.
    """
    found = own if own is not None else next(filter(None, (_of_site(kind, key) for key in keys)), ())
    return [found] if isinstance(found, str) else [str(each) for each in found]


def _of_site(kind: QueueKind, key: str) -> Any:
    return dask.config.get(f"jobqueue.{kind}.{key}", None)


def _walltime(queue: JobQueue) -> str:
    minutes, seconds = divmod(queue.jobs.walltime, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}" if queue.kind == "lsf" else f"{hours:02}:{minutes:02}:{seconds:02}"


def _gpu_directive(queue: JobQueue) -> list[str]:
    """Return the default directive that asks the queue for GPUs. For PBS, `_resource_spec` asks for GPUs."""
    directive = {"slurm": "--gres=gpu:{}", "lsf": '-gpu "num={}"', "sge": "-l gpu={}"}.get(queue.kind)
    return [directive.format(queue.jobs.gpus)] if directive and queue.jobs.gpus else []


def _resource_spec(queue: JobQueue) -> dict[str, str]:
    jobs = queue.jobs
    if queue.kind not in ("pbs", "sge"):
        return {}
    if jobs.resource_spec is None and queue.kind == "pbs" and jobs.gpus:
        memory = -(-jobs.memory // 2**20)
        return {"resource_spec": f"select=1:ncpus={jobs.cores}:mem={memory}mb:ngpus={jobs.gpus}"}
    return {"resource_spec": jobs.resource_spec} if jobs.resource_spec is not None else {}
