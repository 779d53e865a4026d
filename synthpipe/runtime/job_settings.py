"""Settings of jobs that a queueing system runs."""

from __future__ import annotations

import re
import sys
from typing import Annotated

from dask.utils import parse_bytes, parse_timedelta
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from synthpipe.config.fields import Section, Text, Whole

_LEAST_LIFETIME, _LONGEST_MARGIN = 60, 600
_LONGEST_TIME = 366 * 24 * 3600


def _seconds(value: object) -> object:
    """Return a time in seconds. Queues write a time as 12:00:00 or 2-00:00[:00], and Dask writes it as 90m.

    Plain numbers and texts such as 01:30 are refused, because their unit differs between queues.
    """
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(value, int | float) or re.fullmatch(r"[\d.]+|\d+:\d+", text):
        raise ValueError("has no unit, and its meaning differs between queues; write it as 04:00:00, 2-00:00:00 or 90m")
    if found := re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6}):(\d\d)(?::(\d\d))?", text):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    try:
        return int(parse_timedelta(text))
    except (LookupError, OverflowError, ValueError) as error:
        raise ValueError("is not a time; write it as 04:00:00, 2-00:00:00 or 90m") from error


def _word(value: str) -> str:
    if re.search(r"\s", value):
        raise ValueError("contains a space or a line break, which options of queues cannot contain; choose another")
    return value


def _full_path(value: str) -> str:
    if value.startswith("~") or "$" in value:
        raise ValueError("no shell expands ~ or $ here; write the full path")
    return value


def parse_size(value: object) -> int:
    """Return a size such as 64GB or 60GiB in bytes. A number is returned unchanged.

    Raises
    ------
    ValueError
        The value is not a size.
    """
    try:
        return int(parse_bytes(value))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError("is not a size; write it as 64GB or 60GiB") from error


def _one_gpu(gpus: int) -> int:
    if gpus > 1:
        raise ValueError(f"a job has one GPU at most; for {gpus} GPUs give gpus=1 and jobs={gpus}")
    return gpus


Seconds = Annotated[
    Whole,
    BeforeValidator(_seconds),
    Field(gt=0, le=_LONGEST_TIME),
    PlainSerializer(lambda seconds: f"{seconds}s", when_used="json-unless-none"),  # this text can be read again
]
Word = Annotated[Text, AfterValidator(_word)]
Bytes = Annotated[Whole, BeforeValidator(parse_size), Field(ge=1 << 20, le=1 << 50)]


class JobSettings(Section):
    """Resources, number and options of a queue's jobs."""

    cores: Annotated[Whole, Field(ge=1, le=10_000, description="cores of a job")] = 8
    memory: Annotated[Bytes, Field(description="memory of a job")] = 32 << 30
    processes: Annotated[
        Whole | None,
        Field(ge=1, le=10_000, description="workers per job; by default as many as cores, with a GPU at most 4"),
    ] = None
    gpus: Annotated[
        Whole,
        Field(ge=0, description="GPUs of a job, at most 1; for more GPUs ask for more jobs"),
        AfterValidator(_one_gpu),
    ] = 0
    jobs: Annotated[Whole, Field(ge=1, le=100_000, description="largest number of jobs")] = 1
    minimum_jobs: Annotated[
        Whole | None,
        Field(ge=1, le=100_000, description="number of jobs while there is little work; by default as many as jobs"),
    ] = None
    walltime: Annotated[Seconds, Field(ge=120, description="time after which the queue ends a job")] = 3600
    lifetime: Annotated[
        Seconds | None, Field(description="time after which a worker ends itself, before the walltime")
    ] = None
    lifetime_stagger: Annotated[Seconds | None, Field(description="largest random difference between lifetimes")] = None
    queue: Annotated[Word | None, Field(description="queue or partition")] = None
    account: Annotated[
        Word | None, Field(description="account that pays for the jobs; for LSF and SGE the project")
    ] = None
    project: Annotated[Word | None, Field(description="another name of account")] = None
    resource_spec: Annotated[Text | None, Field(description="resources, as PBS or SGE writes them")] = None
    interface: Annotated[Word | None, Field(description="network interface that all nodes have, such as ib0")] = None
    local_directory: Annotated[Text | None, Field(description="folder on a node's own disk, for the donor bank")] = None
    log_directory: Annotated[Word | None, Field(description="folder for the jobs' output")] = None
    python: Annotated[Text, AfterValidator(_full_path), Field(description="path of the interpreter on the nodes")] = (
        sys.executable
    )
    job_name: Word = "synthpipe"
    job_script_prologue: Annotated[
        tuple[Text, ...] | None,
        Field(description="commands that run before the workers; by default those of the site's Dask"),
    ] = None
    job_extra_directives: Annotated[
        tuple[Text, ...] | None, Field(description="further options of the queue; by default those of the site's Dask")
    ] = None
    job_directives_skip: Annotated[
        tuple[Text, ...] | None, Field(description="directives to leave out; by default those of the site's Dask")
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> JobSettings:
        if self.minimum_jobs is not None and self.minimum_jobs > self.jobs:
            raise ValueError(f"minimum_jobs ({self.minimum_jobs}) is more than jobs ({self.jobs})")
        lifetime, stagger = self.life
        if not stagger < lifetime < self.walltime - stagger:
            raise ValueError(
                f"lifetime ({lifetime} s) plus or minus lifetime_stagger ({stagger} s) is not between 0 and the "
                f"walltime ({self.walltime} s); workers must end before the walltime, so that no task is lost"
            )
        return self

    @property
    def workers(self) -> int:
        """Number of worker processes in a job."""
        return self.processes or (min(self.cores, 4) if self.gpus else self.cores)

    @property
    def life(self) -> tuple[int, int]:
        """Seconds after which workers end themselves, and the largest random difference from this number."""
        margin = min(self.walltime // 5, _LONGEST_MARGIN)
        stagger = margin // 3 if self.lifetime_stagger is None else self.lifetime_stagger
        lifetime = max(_LEAST_LIFETIME, self.walltime - margin - stagger) if self.lifetime is None else self.lifetime
        return lifetime, stagger
