from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from synthpipe.core.errors import CatalogError, ClusterError
from synthpipe.runtime import ClusterSettings, DaskExecutor, Demand, Local
from synthpipe.runtime.cluster import open_cluster
from synthpipe.runtime.worker_plugin import _prepare
from tests.runtime.conftest import Bare, cluster_of, fail_at_seven, own_state, square, two


def die(state: str, argument: tuple[Path, int, int]) -> int:
    """Die the first `times` times that this runs, where `number` is a multiple of five."""
    directory, number, times = argument
    if number % 5 == 0 and len(list(directory.glob(f"died-{number}-*"))) < times:
        (directory / f"died-{number}-{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


def fill_memory(state: str, number: int) -> int:
    taken = bytearray()
    while number == 3:
        taken += bytes(range(256)) * (1 << 15)
        time.sleep(0.02)
    return number


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def cluster(marks: Path) -> Iterator[DaskExecutor]:
    with cluster_of(two(), Bare(marks)) as cluster:
        yield cluster


def test_every_argument_gets_its_result(cluster: DaskExecutor) -> None:
    assert sorted(cluster.run(square, range(50))) == [number**2 for number in range(50)]
    assert list(cluster.run(square, [])) == []


def test_workers_are_prepared_processes_on_loopback(cluster: DaskExecutor, marks: Path) -> None:
    pids = set(cluster.client.run(os.getpid).values())
    assert len(pids) == 2 and os.getpid() not in pids
    assert {mark.name for mark in marks.iterdir()} >= set(map(str, pids))
    assert all(address.startswith("tls://127.0.0.1:") for address in cluster.client.nthreads())
    assert set(cluster.client.nthreads().values()) == {1}


def test_arguments_are_taken_only_as_results_are_made(cluster: DaskExecutor) -> None:
    taken = 0

    def arguments() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    results = cluster.run(square, arguments())
    for done in range(1, 100):
        next(results)
        assert taken <= done + 6
    results.close()  # type: ignore[attr-defined]


def test_what_a_task_raises_reaches_the_caller_and_the_cluster_lives_on(cluster: DaskExecutor) -> None:
    with pytest.raises(CatalogError, match="patch 'seven' is broken") as caught:
        list(cluster.run(fail_at_seven, range(100)))
    assert caught.value.__notes__ == ["in 7"]
    assert sorted(cluster.run(square, range(5))) == [0, 1, 4, 9, 16]


def test_killed_workers_cost_no_result(cluster: DaskExecutor, tmp_path: Path) -> None:
    found = sorted(cluster.run(die, [(tmp_path, number, 1) for number in range(20)]))
    assert found == list(range(20))
    assert len(list(tmp_path.glob("died-*"))) == 4
    assert set(cluster.run(own_state, range(10))) == {"bare"}


def test_a_worker_that_the_setup_did_not_reach_is_prepared_once(tmp_path: Path) -> None:
    with open_cluster(two(), Demand(), print) as opened:
        assert set(opened.run(own_state, range(5))) == {None}
        marks: list[str] = []
        for _ in range(2):
            opened.client.run(_prepare, Bare(tmp_path), opened.client.id)
            assert set(opened.run(own_state, range(5))) == {"bare"}
            assert len(list(tmp_path.iterdir())) == 2 * (not marks)
            for mark in tmp_path.iterdir():
                marks.append(mark.name)
                mark.unlink()


@pytest.mark.faults
def test_a_task_outlives_ten_of_its_workers_but_no_endless_row_of_them(cluster: DaskExecutor, tmp_path: Path) -> None:
    assert list(cluster.run(die, [(tmp_path, 0, 10)])) == [0]
    with pytest.raises(ClusterError, match=r"was lost with 16 workers, one after the other.*build again"):
        list(cluster.run(die, [(tmp_path, 5, 100)]))
    assert len(list(tmp_path.glob("died-5-*"))) == 16
    assert sorted(cluster.run(square, range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.faults
def test_a_task_that_needs_too_much_memory_is_found_out_soon(capfd: pytest.CaptureFixture[str]) -> None:
    with cluster_of(two(memory=500 << 20)) as cluster:
        with pytest.raises(
            ClusterError, match=r"4 workers were lost while they ran 3\. The last worker used .* MiB.*--memory"
        ):
            list(cluster.run(fill_memory, range(10)))
        assert sorted(cluster.run(square, range(5))) == [0, 1, 4, 9, 16]
    assert capfd.readouterr().err == ""


@dataclass(frozen=True)
class Greedy(Bare):
    """Takes more memory than it may before its first task."""

    @contextmanager
    def prepared(self, on_steps: Callable[[int], None]) -> Iterator[str]:
        taken = bytes(range(256)) * (3 << 20)
        time.sleep(5)
        on_steps(len(taken))
        yield "greedy"


@pytest.mark.faults
def test_workers_that_never_get_ready_are_no_endless_wait(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match=r"before they were ready.*--memory"), cluster_of(two(400 << 20), Greedy()):
        pass
    assert "Traceback" not in capfd.readouterr().err
    with (
        pytest.raises(ClusterError, match=r"--memory: 100\.00 MiB per worker is too little"),
        cluster_of(two(100 << 20)),
    ):
        pass


def device(state: str, number: int) -> str:
    time.sleep(0.05)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_gpu_is_seen_by_one_worker_and_its_tasks_go_there() -> None:
    local = Local(workers=2, gpus=("GPU-7",))
    with cluster_of(ClusterSettings(local, device="cuda")) as cluster:
        assert set(cluster.run(device, range(10), gpu=True)) == {"GPU-7"}
        assert set(cluster.run(device, range(40))) == {"GPU-7", ""}
    with cluster_of(ClusterSettings(local, device="cpu")) as cluster:
        assert set(cluster.run(device, range(10), gpu=True)) == {""}
