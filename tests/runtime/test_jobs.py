from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import psutil
import pytest

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.config.settings_file import load_settings
from synthpipe.core.errors import ClusterError, ConfigError
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import (
    ClusterSettings,
    Demand,
    JobQueue,
    JobSettings,
    Local,
    QueueKind,
)
from synthpipe.runtime.cluster import open_cluster
from synthpipe.runtime.jobs import WORKER_ENVIRONMENT, job_cluster
from tests.build.test_build import hashes, small
from tests.conftest import ROOT
from tests.runtime.conftest import Bare, cluster_of
from tests.runtime.test_strangers import listening, refuses

# jobs as background processes of this machine: what it takes of Slurm to run workers
SBATCH = """#!/bin/sh
cp "$1" "{logs}/$$.sh"
setsid sh "{logs}/$$.sh" > "{logs}/$$.log" 2>&1 &
echo $! >> "{logs}/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -TERM "-$1"
"""
SQUEUE = """#!/bin/sh
cat "{logs}/jobs"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a Slurm of one machine first in PATH; return the folder of its logs."""
    commands, logs = tmp_path / "bin", tmp_path / "logs"
    commands.mkdir()
    logs.mkdir()
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL), ("squeue", SQUEUE)):
        (commands / name).write_text(script.format(logs=logs))
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return logs


def submitted(logs: Path) -> list[int]:
    return [int(line) for line in (logs / "jobs").read_text().splitlines()]


def jobs(*overrides: str) -> JobSettings:
    return load_settings(JobSettings, None, overrides, option="--cluster-set")


def one_core(**more: int) -> JobSettings:
    return JobSettings(cores=1, memory=1 << 30, interface="lo", **more)


def pid(state: str, number: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def test_the_package_of_queues_does_not_take_ctrl_c() -> None:
    """Its import makes Ctrl-C end the process as if all were well."""
    code = (
        "import signal; from synthpipe.runtime import JobSettings; from synthpipe.runtime.jobs import job_cluster\n"
        "from synthpipe.runtime import Demand\nfrom synthpipe.runtime.settings import JobQueue\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "job_cluster(JobQueue('slurm', JobSettings()), Demand()).close()\n"
        "import dask_jobqueue; assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def script(kind: QueueKind, settings: JobSettings, demand: Demand) -> str:
    cluster = job_cluster(JobQueue(kind, settings), demand)
    try:
        return str(cluster.job_script())
    finally:
        cluster.close()


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("slurm", ["#SBATCH -p long", "#SBATCH -A lab", "#SBATCH --cpus-per-task=16", "#SBATCH --mem=64G"]),
        ("slurm", ["#SBATCH -t 12:00:00", "#SBATCH --gres=gpu:1", "#SBATCH --exclusive"]),
        ("pbs", ["#PBS -q long", "#PBS -A lab", "#PBS -l select=1:ncpus=16:mem=65536mb:ngpus=1"]),
        ("pbs", ["#PBS -l walltime=12:00:00", "#PBS --exclusive"]),
        ("lsf", ["#BSUB -q long", '#BSUB -P "lab"', "#BSUB -n 16", "#BSUB -W 12:00", '#BSUB -gpu "num=1"']),
        ("sge", ["#$ -q long", "#$ -P lab", "#$ -l h_rt=12:00:00", "#$ -l gpu=1"]),
    ],
)
def test_job_scripts_say_what_the_settings_do(kind: QueueKind, lines: list[str]) -> None:
    settings = jobs(
        *("cores=16", "memory=64GiB", "walltime=12:00:00", "queue=long", "account=lab", "gpus=1"),
        *("job_extra_directives=[--exclusive]", "job_script_prologue=[module load cuda]", "local_directory=/local"),
    )
    text = script(kind, settings, Demand())
    for line in lines:
        assert line in text.splitlines()
    assert "module load cuda" in text.splitlines()
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False" in text.splitlines()
    (worker,) = [line for line in text.splitlines() if "synthpipe.runtime.job_worker" in line]
    assert worker.startswith(sys.executable)
    for part in ("--nworkers 4", "--nthreads 1", "--resources GPU=1"):
        assert part in worker
    # ten minutes and the stagger before the wall-time limit
    assert "--lifetime 42400s --lifetime-stagger 200s" in worker


@pytest.fixture
def site(tmp_path: Path) -> Iterator[None]:
    """Dask's settings of a site, in the file of dask-jobqueue."""
    import dask_jobqueue  # noqa: F401  # its defaults come first

    (tmp_path / "jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    job-script-prologue: [module load site]\n    job-extra-directives: [--qos=site]\n"
        "    job-directives-skip: ['--mem']\n    worker-extra-args: [--preload, site_preload]\n"
        "    scheduler-options: {port: 0, contact_address: 'tls://login:9'}\n"
        "  pbs:\n    env-extra: module load old\n    job-extra: [-m n]\n"
    )
    with dask.config.set(dask.config.merge(dask.config.config, *dask.config.collect_yaml([str(tmp_path)]))):
        yield


def test_settings_of_the_site_count_where_the_user_gives_none(site: None) -> None:
    lines = script("slurm", jobs("gpus=1"), Demand()).splitlines()
    assert {"module load site", "#SBATCH --qos=site", "#SBATCH --gres=gpu:1"} <= set(lines)
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False" in lines
    assert not [line for line in lines if "--mem=" in line]
    (worker,) = [line for line in lines if "job_worker" in line]
    assert "--preload site_preload --nworkers" in worker
    with job_cluster(JobQueue("slurm", jobs()), Demand()) as cluster:
        options = cluster.scheduler_spec["options"]
        assert options["contact_address"] == "tls://login:9" and not options["dashboard"]
    with pytest.warns(FutureWarning):
        lines = script("pbs", jobs(), Demand()).splitlines()
    assert {"module load old", "#PBS -m n"} <= set(lines)


def test_settings_of_the_user_replace_those_of_the_site(site: None) -> None:
    own = jobs("job_script_prologue=[module load mine]", "job_extra_directives=[]", "job_directives_skip=[]")
    lines = script("slurm", own, Demand()).splitlines()
    assert "module load mine" in lines and [line for line in lines if "--mem=" in line]
    assert not [line for line in lines if "module load site" in line or "--qos" in line]


def test_workers_count_what_they_share_each_for_itself() -> None:
    text = script("slurm", jobs("cores=4", "memory=8GiB"), Demand(shared=1 << 30))
    assert f"--memory-limit {3 << 30}" in text and "--resources" not in text
    assert f"--memory-limit {8 << 30}" in script("slurm", jobs("cores=1", "memory=8GiB"), Demand(shared=1 << 30))


def test_every_mistake_in_job_settings_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        jobs("cores=0", "memory=much", "walltime=soon", "quue=long", "gpus=2")
    message = str(caught.value)
    for part in (
        "5 mistakes",
        "cores: got 0",
        "is not a size",
        "is not a time",
        "did you mean 'queue'",
        "gpus=1 and jobs=2",
    ):
        assert part in message
    for wrong in (("lifetime=59m", "lifetime_stagger=2m"), ("lifetime_stagger=2h",), ("lifetime=60m",)):
        with pytest.raises(ConfigError, match=r"is not between 0 and the walltime \(3600 s\)"):
            jobs("walltime=01:00:00", *wrong)
    with pytest.raises(ConfigError, match=r"minimum_jobs \(3\) is more than jobs \(2\)"):
        jobs("jobs=2", "minimum_jobs=3")
    assert [jobs(f"walltime={text}").walltime for text in ("2-00:00:00", "12:00:00", "90m", "1-01:30")] == [
        *(172800, 43200, 5400, 91800)
    ]


@pytest.mark.parametrize("text", ["240", "'240'", "240.5", "1:30", "'01:30'"])
def test_times_without_a_unit_are_refused(text: str) -> None:
    """To Slurm 240 are minutes and 01:30 are seconds, to others seconds and hours."""
    for key in ("walltime", "lifetime", "lifetime_stagger"):
        with pytest.raises(ConfigError, match=rf"{key}: got .*has no unit.*write it as 04:00:00, 2-00:00:00 or 90m"):
            jobs(f"{key}={text}")


def test_the_page_lists_all_settings_of_jobs_and_all_variables_of_workers() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    keys = {f"`{key}`" for key in JobSettings.model_fields}
    variables = {f"`{name}={value}`" for name, value in WORKER_ENVIRONMENT.items()}
    assert not [text for text in keys | variables if text not in page]


def test_settings_of_jobs_are_read_back_from_json() -> None:
    settings = jobs("walltime=04:00:00", "lifetime=90m")
    assert JobSettings.model_validate_json(settings.model_dump_json()) == settings


def test_paths_of_a_job_script_may_hold_what_shells_take_apart(slurm: Path, tmp_path: Path) -> None:
    """The run, whose folder has the keys, the interpreter and the nodes' disk."""
    odd = tmp_path / "Lab 3; $(touch it) 'x'"
    odd.mkdir()
    python = odd / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(stat.S_IRWXU)
    with pytest.raises(ConfigError, match=r"python: got .*write the full path"):
        jobs("python=~/bin/python")
    settings = JobSettings(
        cores=1, memory=1 << 30, interface="lo", processes=1, python=str(tmp_path / "a b"), local_directory=str(odd)
    )
    (tmp_path / "a b").symlink_to(python)
    queued = ClusterSettings(JobQueue("slurm", settings), patience=60)
    with open_cluster(queued, Demand(), lambda message: None, odd) as cluster:
        assert len(set(cluster.run(pid, range(3)))) == 1
    assert queued.scratch_on_nodes == odd and not list(tmp_path.rglob("it"))


@pytest.mark.parametrize("key", ["queue", "account", "project", "interface", "log_directory", "job_name"])
def test_options_of_queues_are_single_words(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: got 'a b'.*contains a space or a line break"):
        jobs(f"{key}=a b")


def test_jobs_do_tasks_are_renewed_and_leave_nothing(slurm: Path) -> None:
    settings = ClusterSettings(JobQueue("slurm", one_core(processes=2)), patience=60)
    with cluster_of(settings) as cluster:
        cluster.client.wait_for_workers(2, 60)
        assert len(set(cluster.run(pid, range(20)))) == 2
        (job,) = submitted(slurm)
        os.killpg(job, 9)  # the machine is taken away: nobody says goodbye
        assert len(set(cluster.run(pid, range(20)))) == 2
        assert len(submitted(slurm)) == 2
        workers = list(cluster.client.run(os.getpid).values())
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}/stat").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}/stat").exists() for worker in workers)


def test_jobs_listen_to_their_build_only_and_load_code_from_private_folders(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, run = tmp_path / "tmp", tmp_path / "run"
    run.mkdir()
    (temporary / "dask-scratch-space").mkdir(parents=True)
    (temporary / "dask-scratch-space").chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(temporary))
    settings = ClusterSettings(JobQueue("slurm", one_core(processes=2)), patience=60)
    with open_cluster(settings, Demand(), lambda message: None, run) as cluster:
        cluster.client.wait_for_workers(2, 60)
        (job,) = submitted(slurm)
        ports = listening(psutil.Process()) + listening(psutil.Process(job))
        assert len(ports) == 5 and all(map(refuses, ports))  # scheduler, nannies, workers
        keys = list(run.iterdir())
        assert len(keys) == 2 and {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
        for paths in cluster.client.run(lambda: sys.path).values():
            here = [path for path in paths if path.startswith(str(temporary))]
            assert here and all(path.startswith(f"{temporary}/synthpipe-{os.getuid()}/") for path in here)
    assert not list(run.iterdir())


def test_a_queue_that_takes_no_job_is_heard_and_asked_again(slurm: Path, tmp_path: Path) -> None:
    """Submissions fail for the moment; without sbatch there is nothing to ask."""
    sbatch = tmp_path / "bin" / "sbatch"
    working = sbatch.read_text()
    sbatch.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/tries\n[ $(wc -l < {tmp_path}/tries) -gt 4 ] || "
        f'{{ echo "$(date +%N): Socket timed out" >&2; exit 1; }}\nexec {tmp_path}/working "$@"\n'
    )
    (tmp_path / "working").write_text(working)
    (tmp_path / "working").chmod(stat.S_IRWXU)
    notes: list[str] = []
    settings = ClusterSettings(JobQueue("slurm", one_core(processes=1)), patience=60)
    with open_cluster(settings, Demand(), notes.append) as cluster, cluster.prepared(Bare(), lambda steps: None):
        assert len(set(cluster.run(pid, range(5)))) == 1
        held = list(cluster.client.cluster.workers.values())  # as the traceback of a submission may
        assert held
    (told,) = (note for note in notes if "refuses jobs" in note)
    assert "Socket timed out" in told
    sbatch.unlink()
    if shutil.which("sbatch") is None:
        with pytest.raises(ClusterError, match="--cluster slurm: sbatch is not found"), cluster_of(settings):
            pass


def test_a_build_on_a_queue_has_the_bytes_of_a_local_one(slurm: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", PhantomSpec(slides=6, patches=90, size=48, images=0))
    settings = small(tmp_path / "phantom", "filter.enabled=false")
    build(settings, tmp_path / "here", ClusterSettings(Local(workers=1)), LogReporter())
    queued = ClusterSettings(JobQueue("slurm", one_core(jobs=2)), patience=60)
    build(settings, tmp_path / "queue", queued, LogReporter())
    assert len(submitted(slurm)) == 2
    for store in ("candidates.zarr", "curated.zarr"):
        assert hashes(tmp_path / "queue" / store) == hashes(tmp_path / "here" / store)
