"""Options that choose the machines and processes of a build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from synthpipe.cli.options import build_workers_option
from synthpipe.cli.settings import KeyValue, SettingsFile
from synthpipe.config.shipped import SHIPPED

if TYPE_CHECKING:  # loads Dask; `--help` and other commands need not wait for it
    from synthpipe.runtime import ClusterSettings, DeviceUse, QueueKind

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class ClusterOptions(TypedDict):
    """The options that `cluster_options` adds to a command."""

    workers: int | None
    memory: str | None
    scheduler: str | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    cluster: QueueKind | str | None
    cluster_config: Path | None
    cluster_set: tuple[str, ...]
    device: DeviceUse
    patience: float
    scratch: Path | None


def cluster_options(command: Command) -> Command:
    """Add the options to a command, which passes their values to `cluster_settings`."""
    for option in reversed(
        (
            build_workers_option,
            click.option(
                "--memory", metavar="SIZE", help="Memory of each worker, such as 4GiB [an even share of the machine's]."
            ),
            click.option(
                "--scheduler",
                metavar="ADDRESS|FILE",
                help="Join a Dask cluster: tcp://head:8786, or its scheduler file.",
            ),
            click.option("--tls-ca", type=_FILE, help="Certificate of the authority that the cluster trusts (PEM)."),
            click.option("--tls-cert", type=_FILE, help="Certificate of this machine (PEM)."),
            click.option("--tls-key", type=_FILE, help="Key of this machine (PEM)."),
            click.option(
                "--cluster",
                type=click.Choice(("local", "slurm", "pbs", "lsf", "sge")),
                help="Start workers as jobs of a queue [local].",
            ),
            click.option(
                "--cluster-config",
                type=SettingsFile(SHIPPED / "clusters"),
                help="YAML that describes a job: cores, memory, walltime, ...; slurm comes with synthpipe.",
            ),
            click.option(
                "--cluster-set",
                type=KeyValue("synthpipe.runtime:JobSettings"),
                multiple=True,
                metavar="KEY=VALUE",
                help="Replace a key of --cluster-config; can be repeated.",
            ),
            click.option(
                "--device",
                type=click.Choice(("auto", "cuda", "cpu")),
                default="auto",
                show_default=True,
                help="Device that trains and applies filters. cuda: only workers with a GPU; auto: workers with a GPU "
                "if the cluster has any, else all workers; cpu: all workers.",
            ),
            click.option(
                "--patience",
                type=click.FloatRange(min=1),
                default=600.0,
                show_default=True,
                metavar="SECONDS",
                help="Longest time to wait for workers, for example in a queue.",
            ),
            click.option(
                "--scratch",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder on each machine's own disk for the donors [its TMPDIR].",
            ),
        )
    ):
        command = option(command)
    return command


def cluster_settings(
    workers: int | None,
    memory: str | None,
    scheduler: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    cluster: str | None,
    cluster_config: Path | None,
    cluster_set: tuple[str, ...],
    device: DeviceUse,
    patience: float,
    scratch: Path | None,
) -> ClusterSettings:
    """Return the cluster settings that the options describe.

    Raises
    ------
    UsageError
        The options contradict each other.
    ConfigError
        The file of --cluster-config is wrong; the message lists every mistake.
    """
    from synthpipe.config.settings_file import load_settings
    from synthpipe.runtime import ClusterSettings, ExistingCluster, JobQueue, JobSettings, Local, Tls

    local = scheduler is None and cluster in (None, "local")
    if scheduler is not None and cluster is not None:
        raise click.UsageError(
            "--scheduler joins a cluster, but --cluster starts a cluster; give only one of these options"
        )
    if not local and (workers is not None or memory is not None):
        raise click.UsageError(
            "--workers and --memory apply to this machine; for jobs, give --cluster-set processes=..., memory=..."
        )
    if (cluster_config or cluster_set) and cluster in (None, "local"):
        raise click.UsageError(
            "--cluster-config and --cluster-set describe jobs; name the kind of queue with --cluster"
        )
    if workers == 0 and memory is not None:
        raise click.UsageError(
            "--memory limits worker processes, but --workers 0 starts no processes; leave out one of these options"
        )
    paths = [path for path in (tls_ca, tls_cert, tls_key) if path]
    if paths and (local or len(paths) < 3):
        raise click.UsageError(
            "--tls-ca, --tls-cert and --tls-key need each other, and --scheduler or --cluster; give all of them"
        )
    tls = Tls(*(path.absolute() for path in paths)) if paths else None
    where: Local | ExistingCluster | JobQueue
    if local:
        where = Local(workers, None if memory is None else _bytes(memory))
    elif scheduler is not None:
        where = ExistingCluster(scheduler, tls)
    else:
        jobs = load_settings(JobSettings, cluster_config, cluster_set, option="--cluster-set")
        where = JobQueue(_kind(cluster), jobs, tls)
    return ClusterSettings(where, device, patience, scratch.absolute() if scratch else None)


def _kind(cluster: str | None) -> QueueKind:
    from synthpipe.runtime import QUEUE_KINDS

    return next(kind for kind in QUEUE_KINDS if kind == cluster)


def _bytes(memory: str) -> int:
    from synthpipe.runtime import parse_size

    try:
        return parse_size(memory)
    except ValueError as error:
        raise click.BadParameter(f"{memory!r} {error}", param_hint="--memory") from error
