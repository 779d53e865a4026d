"""Jobs of a queueing system: their settings, and the Dask cluster that is made of them by dask-jobqueue."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import dask
from dask.utils import parse_bytes, parse_timedelta
from distributed import Status
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from synthpipe.config import Section, Text, Whole
from synthpipe.errors import ClusterError
from synthpipe.packages import require
from synthpipe.runtime.servers import Scheduler, Worker
from synthpipe.runtime.site import starting

if TYPE_CHECKING:
    from synthpipe.runtime.settings import Demand, Queued, QueueKind

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

_LEAST_LIFETIME, _LONGEST_MARGIN = 60, 600
_LONGEST_TIME = 366 * 24 * 3600


def _seconds(value: object) -> object:
    """Read a time as queues write it, 12:00:00 or 2-00:00[:00], or as Dask does, 90m.

    Numbers are minutes to some queues and seconds to others; so are the parts of 01:30 hours or minutes.
    """
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(value, int | float) or re.fullmatch(r"[\d.]+|\d+:\d+", text):
        raise ValueError("has no unit, and queues differ in what it means; write it as 04:00:00, 2-00:00:00 or 90m")
    if found := re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6}):(\d\d)(?::(\d\d))?", text):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    try:
        return int(parse_timedelta(text))
    except (LookupError, OverflowError, ValueError) as error:
        raise ValueError("is no time; write it as 04:00:00, 2-00:00:00 or 90m") from error


def _word(value: str) -> str:
    if re.search(r"\s", value):
        raise ValueError("holds a space or a line break, which options of queues cannot hold; choose another")
    return value


def _full_path(value: str) -> str:
    if value.startswith("~") or "$" in value:
        raise ValueError("is not taken apart by a shell; write the path in full")
    return value


def parse_size(value: object) -> int:
    """Return a size such as 64GB or 60GiB in bytes; numbers stay as they are.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        return int(parse_bytes(value))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError("is no size; write it as 64GB or 60GiB") from error


def _one_gpu(gpus: int) -> int:
    if gpus > 1:
        raise ValueError(f"a job has one GPU at most; for {gpus} GPUs give gpus=1 and jobs={gpus}")
    return gpus


Seconds = Annotated[
    Whole,
    BeforeValidator(_seconds),
    Field(gt=0, le=_LONGEST_TIME),
    PlainSerializer(lambda seconds: f"{seconds}s", when_used="json-unless-none"),  # JSON is read back as it is written
]
Word = Annotated[Text, AfterValidator(_word)]
Bytes = Annotated[Whole, BeforeValidator(parse_size), Field(ge=1 << 20, le=1 << 50)]


class JobSettings(Section):
    """What a job of the queue is, and how many there are."""

    cores: Annotated[Whole, Field(ge=1, le=10_000, description="of a job")] = 8
    memory: Annotated[Bytes, Field(description="of a job")] = 32 << 30
    processes: Annotated[
        Whole | None, Field(ge=1, le=10_000, description="workers a job; [cores], with a GPU [up to 4]")
    ] = None
    gpus: Annotated[
        Whole, Field(ge=0, description="of a job, at most 1; for more GPUs ask for more jobs"), AfterValidator(_one_gpu)
    ] = 0
    jobs: Annotated[Whole, Field(ge=1, le=100_000, description="at most")] = 1
    minimum_jobs: Annotated[Whole | None, Field(ge=1, le=100_000, description="while there is little to do [jobs]")] = (
        None
    )
    walltime: Annotated[Seconds, Field(ge=120, description="after which the queue ends a job")] = 3600
    lifetime: Annotated[Seconds | None, Field(description="after which a worker leaves by itself, before that")] = None
    lifetime_stagger: Annotated[Seconds | None, Field(description="by which lifetimes differ at random")] = None
    queue: Annotated[Word | None, Field(description="or partition")] = None
    account: Annotated[Word | None, Field(description="that pays; of LSF and SGE the project")] = None
    project: Annotated[Word | None, Field(description="another word for account")] = None
    resource_spec: Annotated[Text | None, Field(description="of PBS and SGE, in their own words")] = None
    interface: Annotated[Word | None, Field(description="network interface that all nodes have, such as ib0")] = None
    local_directory: Annotated[Text | None, Field(description="the node's own disk, for the donor bank")] = None
    log_directory: Annotated[Word | None, Field(description="for the jobs' output")] = None
    python: Annotated[Text, AfterValidator(_full_path), Field(description="path of the interpreter on the nodes")] = (
        sys.executable
    )
    job_name: Word = "synthpipe"
    job_script_prologue: Annotated[
        tuple[Text, ...] | None, Field(description="commands before the workers [those of the site's Dask]")
    ] = None
    job_extra_directives: Annotated[
        tuple[Text, ...] | None, Field(description="further options of the queue [those of the site's Dask]")
    ] = None
    job_directives_skip: Annotated[
        tuple[Text, ...] | None, Field(description="directives to leave out [those of the site's Dask]")
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> JobSettings:
        if self.minimum_jobs is not None and self.minimum_jobs > self.jobs:
            raise ValueError(f"minimum_jobs ({self.minimum_jobs}) is more than jobs ({self.jobs})")
        lifetime, stagger = self.life
        if not stagger < lifetime < self.walltime - stagger:
            raise ValueError(
                f"lifetime ({lifetime} s), give or take lifetime_stagger ({stagger} s), leaves the walltime "
                f"({self.walltime} s); workers must end before it, so that no task is lost"
            )
        return self

    @property
    def workers(self) -> int:
        """Worker processes of a job."""
        return self.processes or (min(self.cores, 4) if self.gpus else self.cores)

    @property
    def life(self) -> tuple[int, int]:
        """Seconds after which workers leave, before the wall-time limit; and by how many these differ, either way."""
        margin = min(self.walltime // 5, _LONGEST_MARGIN)
        stagger = margin // 3 if self.lifetime_stagger is None else self.lifetime_stagger
        lifetime = max(_LEAST_LIFETIME, self.walltime - margin - stagger) if self.lifetime is None else self.lifetime
        return lifetime, stagger


def check_queue(queued: Queued) -> None:
    """Refuse a queue that this machine cannot submit to.

    Raises
    ------
    ClusterError
        The queue's command is not found.
    """
    command = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}[queued.kind]
    if shutil.which(command) is None:
        raise ClusterError(
            f"--cluster {queued.kind}: {command} is not found; build on a machine that submits jobs, or name the kind "
            "of its queue"
        )


def job_cluster(queued: Queued, demand: Demand, **options: Any) -> Any:
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
    cluster = {
        "slurm": dask_jobqueue.SLURMCluster,
        "pbs": dask_jobqueue.PBSCluster,
        "lsf": dask_jobqueue.LSFCluster,
        "sge": dask_jobqueue.SGECluster,
    }[queued.kind]

    base: Any = cluster.job_cls

    class Job(base):  # type: ignore[misc]
        """Says that it is closed, which Dask makes sure of at the end where a failed submission still holds it."""

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
            """Submit the script; what the queue says to it does not depend on the script's name, which is random."""
            try:
                return await super()._submit_job(script_filename)
            except RuntimeError as error:
                said = str(error).rpartition("stderr:")[2].strip() or str(error)
                raise RuntimeError(said.replace(script_filename, "SCRIPT")) from error

        @classmethod
        async def in_queue(cls) -> frozenset[str] | None:
            """Return this user's jobs that wait or run; None where that is not known, as of queues other than Slurm."""
            if queued.kind != "slurm":
                return None
            try:
                return frozenset((await cls._call(["squeue", "--noheader", "--me", "--format=%A"])).split())
            except (OSError, RuntimeError):
                return None

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    with starting(f"--cluster {queued.kind} cannot be started"):
        return cluster(
            job_cls=Job,
            scheduler_cls=Scheduler,
            scheduler_options={**(_of_site(queued.kind, "scheduler-options") or {}), "dashboard": False},
            **job_options(queued, demand),
            **options,
        )


def job_options(queued: Queued, demand: Demand) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's cluster that describe a job."""
    jobs = queued.jobs
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
        "walltime": _walltime(queued),
        "queue": jobs.queue,
        ("account" if queued.kind in ("slurm", "pbs") else "project"): jobs.account or jobs.project,
        **_resource_spec(queued),
        "interface": jobs.interface,
        "worker_command": "synthpipe.runtime.job_worker",
        "log_directory": jobs.log_directory,
        "python": shlex.quote(jobs.python),
        "job_name": jobs.job_name,
        "job_script_prologue": [
            *exports,
            *_own_or_of_site(jobs.job_script_prologue, queued.kind, "job-script-prologue", "env-extra"),
        ],
        "job_extra_directives": [
            *_gpu_directive(queued),
            *_own_or_of_site(jobs.job_extra_directives, queued.kind, "job-extra-directives", "job-extra"),
        ],
        "job_directives_skip": _own_or_of_site(
            jobs.job_directives_skip, queued.kind, "job-directives-skip", "header-skip"
        ),
        "worker_extra_args": [  # of an option that is given twice the last one counts
            *_own_or_of_site(None, queued.kind, "worker-extra-args", "extra"),
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


def _walltime(queued: Queued) -> str:
    minutes, seconds = divmod(queued.jobs.walltime, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}" if queued.kind == "lsf" else f"{hours:02}:{minutes:02}:{seconds:02}"


def _gpu_directive(queued: Queued) -> list[str]:
    """Return how the queue is asked for GPUs where nothing else is said; PBS takes them with the other resources."""
    directive = {"slurm": "--gres=gpu:{}", "lsf": '-gpu "num={}"', "sge": "-l gpu={}"}.get(queued.kind)
    return [directive.format(queued.jobs.gpus)] if directive and queued.jobs.gpus else []


def _resource_spec(queued: Queued) -> dict[str, str]:
    jobs = queued.jobs
    if queued.kind not in ("pbs", "sge"):
        return {}
    if jobs.resource_spec is None and queued.kind == "pbs" and jobs.gpus:
        memory = -(-jobs.memory // 2**20)
        return {"resource_spec": f"select=1:ncpus={jobs.cores}:mem={memory}mb:ngpus={jobs.gpus}"}
    return {"resource_spec": jobs.resource_spec} if jobs.resource_spec is not None else {}
