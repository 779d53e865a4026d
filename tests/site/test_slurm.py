"""Builds on a real Slurm, which the tests start on this machine: its controller, one node of two cores, and munge."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from synthpipe.patches.phantom import PhantomSpec, write_phantom
from tests.build.test_build import hashes
from tests.conftest import DEMO, ROOT

pytestmark = pytest.mark.slow

PACKAGES = {"munged": "munge", "sbatch": "slurm-client", "slurmctld": "slurmctld", "slurmd": "slurmd"}
PATHS = f"{os.environ['PATH']}:/usr/sbin"
SETTINGS = (
    *("canvas=64", "filter.enabled=false", "store.shard=8"),
    *("curation.wanted=300", "curation.candidates=600", "curation.max_candidates=600"),
)
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
ReturnToService=2
OverTimeLimit=0
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=short Nodes=ALL Default=YES State=UP
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for too long"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def daemon(log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start a Slurm of this machine; its commands find it by SLURM_CONF."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", PATHS)
        if missing := [package for name, package in PACKAGES.items() if shutil.which(name) is None]:
            pytest.skip(f"there is no Slurm here: install the packages {', '.join(missing)}")
        folder = tmp_path_factory.mktemp("slurm")
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "key").write_bytes(secrets.token_bytes(128))
        (folder / "key").chmod(0o600)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                folder=folder,
                user=getpass.getuser(),
                controller=free_port(),
                node=free_port(),
            )
        )
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(ROOT))
        files = (f"--{name}-file={folder}/{name}" for name in ("key", "pid", "log", "seed"))
        munge = ("munged", "--foreground", "--force", f"--socket={folder}/munge", *files)
        stack.enter_context(daemon(folder / "munged.log", *munge))
        until((folder / "munge").exists, 60)
        for name in ("slurmctld", "slurmd"):
            stack.enter_context(daemon(folder / f"{name}.log", name, "-D"))
        until(lambda: subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True).stdout == b"idle\n", 60)
        yield


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with patches, and a run of them that workers of this machine made."""
    folder = tmp_path_factory.mktemp("here")
    write_phantom(folder / "phantom", PhantomSpec(slides=6, patches=60, size=80, images=0))
    subprocess.run(command(folder, folder / "run", "--workers=1"), check=True, capture_output=True)
    return folder


def command(patches: Path, to: Path, *options: str) -> list[str]:
    settings = (f"--set={each}" for each in (*SETTINGS, f"patches.root={patches}/phantom"))
    return [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(to), *settings, *options]


@contextmanager
def building(here: Path, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a build by jobs of one worker, in a folder that gets their output and the build's, `log`."""
    jobs = ("cores=1", "memory=1GB", "walltime=2m", "interface=lo", *options)
    settings = [f"--cluster-set={each}" for each in jobs if not each.startswith("--")]
    settings += [each for each in jobs if each.startswith("--")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command(here, folder / "run", "--cluster=slurm", *settings), cwd=folder, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


def jobs_in_queue(state: str = "all") -> list[str]:
    return run("squeue", "--noheader", "--format=%A", *([] if state == "all" else ["--states", state])).split()


def nothing(job: str) -> None:
    """Let the job work."""


def requeue(job: str) -> None:
    run("scontrol", "requeue", job)


def cancel(job: str) -> None:
    run("scancel", job)


def hang(job: str) -> None:
    """Stop the job's processes, and give it the shortest limit: Slurm ends it after a minute or two."""
    run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):  # one that has ended meanwhile, or is not collected yet
            if process.name().startswith("python") and process.environ().get("SLURM_JOB_ID") == job:
                process.suspend()


@pytest.mark.parametrize(("event", "submitted"), [(nothing, 1), (requeue, 2), (cancel, 2), (hang, 2)])
def test_a_build_outlives_its_jobs(
    slurm: None, here: Path, tmp_path: Path, event: Callable[[str], None], submitted: int
) -> None:
    log = tmp_path / "log"
    with building(here, tmp_path) as process:
        until(lambda: process.poll() is not None or b"candidate composites: 0 of" in log.read_bytes())
        assert process.poll() is None, log.read_text()
        (job,) = jobs_in_queue()
        event(job)
        assert process.wait(500) == 0, log.read_text()
    assert not jobs_in_queue("running,pending")
    assert len(list(tmp_path.glob("slurm-*.out"))) == submitted
    for store in ("candidates.zarr", "curated.zarr"):
        assert hashes(tmp_path / "run" / store) == hashes(here / "run" / store)


def test_a_job_that_ends_before_its_workers_come_is_submitted_again(slurm: None, here: Path, tmp_path: Path) -> None:
    run("scontrol", "update", "PartitionName=short", "State=DOWN")
    try:
        with building(here, tmp_path, "--patience=120") as process:
            until(lambda: jobs_in_queue("pending"))
            time.sleep(5)  # until the build has seen it
            run("scancel", *jobs_in_queue("pending"))
            run("scontrol", "update", "PartitionName=short", "State=UP")
            assert process.wait(300) == 0, (tmp_path / "log").read_text()
    finally:
        run("scontrol", "update", "PartitionName=short", "State=UP")
    assert b"ended before its workers came" in (tmp_path / "log").read_bytes()


def test_what_slurm_refuses_is_told_in_its_words(slurm: None, here: Path, tmp_path: Path) -> None:
    with building(here, tmp_path, "queue=nowhere", "--patience=20") as process:
        assert process.wait(120) == 1
    said = (tmp_path / "log").read_text()
    assert "the queue refuses jobs; trying again: sbatch: error: invalid partition specified: nowhere" in said
    assert "has had no worker for 20 s (--patience)" in said and "Traceback" not in said
