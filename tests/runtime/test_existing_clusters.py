from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client, get_worker

from synthpipe.core.errors import ClusterError
from synthpipe.runtime import ClusterSettings, Demand, ExistingCluster, Tls
from synthpipe.runtime.cluster import open_cluster
from synthpipe.runtime.worker_plugin import SetupPlugin
from tests.runtime.conftest import Bare, cluster_of

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Dask command while the block runs, with some variables in its environment."""
    command = [sys.executable, "-m", "dask", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def scheduler(directory: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a scheduler on the loopback address; yield its file."""
    file = directory / "scheduler.json"
    arguments = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with process("scheduler", *arguments, *options) as running:
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield str(file), running


def worker(file: str, *options: str) -> tuple[str, ...]:
    return ("worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard", *options)


def wait_for_workers(file: str, count: int) -> None:
    """Wait until the workers have joined, because a busy machine starts them later than a short patience allows."""
    with Client(scheduler_file=file) as client:
        client.wait_for_workers(count, 120)


def name(state: object, number: int) -> str:
    time.sleep(0.05)
    return str(get_worker().name)


def slow(state: str, number: int) -> int:
    time.sleep(0.2)
    return number


@dataclass(frozen=True)
class Choosy(Bare):
    """Takes no worker that has one variable in its environment."""

    refused: str = ""

    def problems(self) -> list[str]:
        return ["numpy is 1.0 there, 2.0 here"] if self.refused in os.environ else []

    @contextmanager
    def prepared(self, on_steps: Callable[[int], None]) -> Iterator[str]:
        if "BROKEN" in os.environ:
            raise OSError("no room on its disk")
        with super().prepared(on_steps) as state:
            yield state


def until(ended: Callable[[], bool], seconds: float = 60) -> Iterator[int]:
    """Yield numbers until something has ended, or for so many seconds."""
    deadline = time.monotonic() + seconds
    yield from takewhile(lambda _: not ended() and time.monotonic() < deadline, count())


def open_and_close(settings: ClusterSettings, setup: Bare | None = None) -> None:
    with cluster_of(settings, setup):
        pass


def test_tasks_for_gpus_go_to_workers_with_one_and_late_workers_are_prepared(tmp_path: Path) -> None:
    with ExitStack() as stack:
        file, _ = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(process(*worker(file, "--name", "plain")))
        settings = ClusterSettings(ExistingCluster(file), patience=20)
        marks = tmp_path / "marks"
        marks.mkdir()
        with cluster_of(settings, Bare(marks)) as cluster:
            assert set(cluster.run(name, range(4), gpu=True)) == {"plain"}
            assert len(list(marks.iterdir())) == 1
            stack.enter_context(process(*worker(file, "--name", "gpu", "--resources", "GPU=1")))
            cluster.client.wait_for_workers(2, 20)
            time.sleep(1)
            assert len(list(marks.iterdir())) == 2
            assert set(cluster.run(name, range(12), gpu=True)) == {"gpu"}
            assert set(cluster.run(name, range(40))) == {"gpu", "plain"}


def test_workers_that_join_after_a_killed_driver_are_left_alone(tmp_path: Path) -> None:
    """Its plugin stays at the scheduler, and would send them away: they may be another's."""
    with ExitStack() as stack:
        file, _ = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(process(*worker(file)))
        with Client(scheduler_file=file) as driver:
            driver.wait_for_workers(1, 30)
            driver.register_plugin(SetupPlugin(Choosy(refused="LATE"), driver.id))
        late = stack.enter_context(process(*worker(file, "--name", "late", "--no-nanny"), LATE="1"))
        with Client(scheduler_file=file) as other:
            other.wait_for_workers(2, 30)
            time.sleep(3)
            assert late.poll() is None and other.submit(name, None, 1, workers=["late"]).result(timeout=10) == "late"
            assert "synthpipe-bare" not in other.run_on_scheduler(
                lambda dask_scheduler: list(dask_scheduler.worker_plugins)
            )


def test_a_gpu_that_nobody_has_is_no_endless_wait(tmp_path: Path) -> None:
    with scheduler(tmp_path) as (file, _), process(*worker(file)):
        wait_for_workers(file, 1)
        settings = ClusterSettings(ExistingCluster(file), device="cuda", patience=4)
        with pytest.raises(ClusterError, match=r"none of the 1 workers has had the resource GPU for 4 s.*--device cpu"):
            open_and_close(settings)


def test_a_lost_scheduler_is_told_within_seconds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with scheduler(tmp_path) as (file, running), process(*worker(file)):
        with (
            pytest.raises(ClusterError, match=r"scheduler at tcp://127\.0\.0\.1:\d+ is gone.*run the command again"),
            cluster_of(ClusterSettings(ExistingCluster(file), patience=20)) as cluster,
        ):
            for done in cluster.run(slow, range(1000)):
                if done == 2:
                    running.send_signal(signal.SIGKILL)
                    start = time.monotonic()
        assert time.monotonic() - start < 10
    assert capfd.readouterr().err == ""


def test_workers_that_all_vanish_are_no_endless_wait(tmp_path: Path) -> None:
    """With what they have done and not handed over."""
    with ExitStack() as stack:
        file, _ = stack.enter_context(scheduler(tmp_path))
        workers = [stack.enter_context(process(*worker(file, "--no-nanny"))) for _ in range(2)]
        wait_for_workers(file, 2)
        with cluster_of(ClusterSettings(ExistingCluster(file), patience=4)) as cluster:
            start = 0.0
            with pytest.raises(ClusterError, match="has had no worker for 4 s"):
                for number, _ in enumerate(cluster.run(name, count())):
                    if number == 20:
                        for each in workers:
                            each.kill()
                        start = time.monotonic()
        assert time.monotonic() - start < 30


def test_a_worker_that_is_stopped_is_no_endless_wait(tmp_path: Path) -> None:
    """As a queue suspends it: a build that begins names it, and one that is under way ends all the same."""
    with ExitStack() as stack:
        file, _ = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(process(*worker(file, "--no-nanny")))
        other = stack.enter_context(process(*worker(file, "--no-nanny")))
        settings = ClusterSettings(ExistingCluster(file), patience=5)
        wait_for_workers(file, 2)
        try:
            with pytest.raises(KeyboardInterrupt), cluster_of(settings):
                other.send_signal(signal.SIGSTOP)
                start = time.monotonic()
                raise KeyboardInterrupt
            assert time.monotonic() - start < 20
            with pytest.raises(ClusterError, match=r"worker tcp://.* has not answered for 5 s"):
                open_and_close(settings)
            assert time.monotonic() - start < 60
        finally:
            other.send_signal(signal.SIGCONT)


def test_workers_that_differ_are_refused_early_and_late(tmp_path: Path) -> None:
    notes: list[str] = []
    with ExitStack() as stack:
        file, _ = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(process(*worker(file, "--name", "good"), EARLY="1"))
        settings = ClusterSettings(ExistingCluster(file), patience=20)
        with pytest.raises(ClusterError, match=r"1 of 1 workers differ.*\n  worker tcp://.*: numpy is 1\.0 there"):
            open_and_close(settings, Choosy(refused="EARLY"))
        with (
            open_cluster(settings, Demand(), notes.append) as cluster,
            cluster.prepared(Choosy(refused="LATE"), lambda steps: None),
        ):
            late = stack.enter_context(process(*worker(file, "--name", "late"), LATE="1"))
            # it is given tasks before it has left
            assert set(cluster.run(name, until(lambda: late.poll() is not None))) == {"good"}
            assert late.wait(30) == 0
            broken = stack.enter_context(process(*worker(file, "--name", "broken"), BROKEN="1"))
            assert set(cluster.run(name, until(lambda: broken.poll() is not None))) == {"good"}
            assert set(cluster.run(name, range(10))) == {"good"}
    assert any("no room on its disk" in note for note in notes)
    assert any("stopped a worker that cannot run the build: worker tcp://" in note for note in notes)


def test_a_wrong_scheduler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthpipe.runtime.cluster._SECONDS_TO_CONNECT", 1)
    with pytest.raises(ClusterError, match=r"--scheduler tcp://127\.0\.0\.1:9: no connection"):
        open_and_close(ClusterSettings(ExistingCluster("tcp://127.0.0.1:9")))
    with pytest.raises(ClusterError, match=r"nowhere\.json: neither an address"):
        open_and_close(ClusterSettings(ExistingCluster("nowhere.json")))


def certificate(directory: Path) -> Tls:
    """Make a certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "synthpipe")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = directory / "cert.pem", directory / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Tls(pem, pem, secret)


def test_tls_is_spoken_and_without_it_nobody_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path)
    options = ("--tls-ca-file", str(tls.ca), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key))
    with scheduler(tmp_path, *options, "--protocol", "tls") as (file, _), process(*worker(file, *options)):
        with cluster_of(ClusterSettings(ExistingCluster(file, tls), patience=20)) as cluster:
            assert cluster.client.scheduler.address.startswith("tls://")
            assert sorted(cluster.run(slow, range(3))) == [0, 1, 2]
        monkeypatch.setattr("synthpipe.runtime.cluster._SECONDS_TO_CONNECT", 2)
        with pytest.raises(ClusterError, match=r"--scheduler tls://.*no connection"):
            open_and_close(ClusterSettings(ExistingCluster(file)))
