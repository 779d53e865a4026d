"""Jobs of a queueing system: start a Dask cluster of them."""

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
# Dask has workers give freed memory back at once, to get it again, page by page, for the next shard
WORKER_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES)}
WORKER_SETTINGS = {
    # what Dask samples for its dashboard takes a tenth of the cores from the work
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "1s",
    # a worker that holds the interpreter while it decodes or trains is not lost: give it time to answer
    "distributed.comm.timeouts.connect": "120s",
    # tasks leave nothing in Dask's memory, which it could move to the disk
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}
WORKER_ENVIRONMENT = WORKER_MEMORY | {
    f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": str(value) for key, value in WORKER_SETTINGS.items()
}
"""What workers are started with; `docs/cluster.md` says it to those who start their own."""


def check_queue(queue: JobQueue) -> None:
    """Refuse a queue that this machine cannot submit to.

    Raises
    ------
    ClusterError
        The queue's command is not found.
    """
    command = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}[queue.kind]
    if shutil.which(command) is None:
        raise ClusterError(
            f"--cluster {queue.kind}: {command} is not found; build on a machine that submits jobs, or name the kind "
            "of its queue"
        )


def job_cluster(queue: JobQueue, demand: Demand, **options: Any) -> Any:
    """Start a scheduler in this process, and a Dask cluster that submits jobs once it is scaled.

    Raises
    ------
    ClusterError
        dask-jobqueue does not take the settings.
    MissingPackageError
        dask-jobqueue is not installed.
    """
    handler = signal.getsignal(signal.SIGINT)
    require("--cluster", "dask-jobqueue")
    import dask_jobqueue

    if signal.getsignal(signal.SIGINT) != handler:
        signal.signal(signal.SIGINT, handler)  # importing it makes Ctrl-C end the process without a word
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
    """Return dask-jobqueue's class of jobs, with its faults corrected."""

    class Job(base):  # type: ignore[misc]
        """Says that it is closed, which Dask makes sure of at the end where a failed submission still holds it."""

        refusal = ""
        """Why the queue did not take the job."""

        def __init__(self, *arguments: Any, security: Any = None, **options: Any) -> None:
            if security is not None:
                security = copy(security)
                for file in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):  # become words of the script
                    setattr(security, file, shlex.quote(getattr(security, file)))
            super().__init__(*arguments, security=security, **options)

        @contextmanager
        def job_file(self) -> Iterator[str]:
            """Write the script to a file that nobody else can open, or make before."""
            with NamedTemporaryFile("w", suffix=".sh") as file:
                file.write(self.job_script())
                file.flush()
                yield file.name

        async def _submit_job(self, script_filename: str) -> Any:
            """Submit the script; keep the queue's reason, without the script's random name, where it refuses."""
            try:
                return await super()._submit_job(script_filename)
            except (OSError, RuntimeError) as error:
                reason = str(error).rpartition("stderr:")[2].strip() or str(error)
                self.refusal = reason.replace(script_filename, "SCRIPT")
                raise RuntimeError(self.refusal) from error

        @classmethod
        async def in_queue(cls) -> frozenset[str] | None:
            """Return this user's jobs that wait or run; None where that is not known, as of queues other than Slurm."""
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
    """Return the arguments of dask-jobqueue's cluster that describe a job."""
    jobs = queue.jobs
    lifetime, stagger = jobs.life
    worker = {
        "--nworkers": jobs.workers,
        "--worker-class": f"{Worker.__module__}.{Worker.__name__}",
        "--nthreads": 1,  # scoring and training change settings of their process
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
        "worker_extra_args": [  # of an option that is given twice the last one counts
            *_own_or_of_site(None, queue.kind, "worker-extra-args", "extra"),
            *(str(part) for pair in worker.items() for part in pair),
        ],
    }


def _own_or_of_site(own: tuple[str, ...] | None, kind: QueueKind, *keys: str) -> list[str]:
    """Return what the user gives, else what Dask's settings have under the first key that is set.

    dask-jobqueue itself looks there only where it is given nothing, and it is given more than what the user says.
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
    """Return how the queue is asked for GPUs where nothing else is said; PBS takes them with the other resources."""
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
