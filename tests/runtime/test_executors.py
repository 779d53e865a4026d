"""The contract that both executors keep: what runs here must run on a Dask cluster, and the other way round."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from distributed import SpecCluster

from synthpipe.core.errors import CatalogError, ClusterError
from synthpipe.runtime import (
    ClusterSettings,
    DaskExecutor,
    Demand,
    DeviceUse,
    Executor,
    Local,
    SerialExecutor,
    open_executor,
)
from tests.runtime.conftest import Bare, cluster_of, fail_at_seven, own_state, square, three_steps


@dataclass(frozen=True)
class Telling(Bare):
    """A setup that logs a warning, and leaves a mark where it is released."""

    @contextmanager
    def prepared(self, on_steps: Callable[[int], None]) -> Iterator[str]:
        logging.getLogger("synthpipe").warning("the disk is slow")
        assert self.marks
        with super().prepared(on_steps) as state:
            try:
                yield state
            finally:
                (self.marks / "released").touch()


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module", params=[0, 1], ids=["serial", "dask"])
def executor(
    request: pytest.FixtureRequest, notes: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Executor]:
    notes.clear()
    steps: list[int] = []
    marks = tmp_path_factory.mktemp("marks")
    with open_executor(ClusterSettings(Local(request.param)), Demand(), notes.append) as opened:
        assert isinstance(opened, (SerialExecutor, DaskExecutor)[request.param])
        with opened.prepared(Telling(marks), steps.append):
            wait_until(lambda: steps == [1])
            assert [each.name for each in marks.iterdir()]
            yield opened
        wait_until((marks / "released").exists)


def wait_until(reached: Callable[[], bool]) -> None:
    for _ in range(1000):
        if reached():
            return
        time.sleep(0.01)
    raise AssertionError("not reached")


def test_every_argument_gets_its_result(executor: Executor) -> None:
    assert sorted(executor.run(square, range(20))) == [number**2 for number in range(20)]
    assert sorted(executor.run(square, range(3), gpu=True)) == [0, 1, 4]
    assert list(executor.run(square, [])) == []
    assert executor.hosts() == 1 and not executor.uses_gpus()


def test_every_task_gets_the_state_of_its_process(executor: Executor) -> None:
    assert set(executor.run(own_state, range(5))) == {"bare"}


def test_tasks_of_processes_that_no_setup_prepared_get_no_state() -> None:
    with open_executor(ClusterSettings(Local(0)), Demand(), print) as opened:
        with opened.prepared(Bare(), print):
            pass
        assert list(opened.run(own_state, [0])) == [None]


def test_arguments_are_taken_only_as_results_are_made(executor: Executor) -> None:
    taken: list[int] = []
    results = executor.run(square, (taken.append(number) or number for number in range(100)))  # type: ignore[func-returns-value]
    for done in range(1, 20):
        next(results)
        assert len(taken) <= done + 3


def test_what_a_task_raises_reaches_the_caller_and_the_executor_works_on(executor: Executor) -> None:
    with pytest.raises(CatalogError, match="patch 'seven' is broken") as caught:
        list(executor.run(fail_at_seven, range(100)))
    assert caught.value.__notes__ == ["in 7"]
    assert sorted(executor.run(square, range(5))) == [0, 1, 4, 9, 16]


def test_announced_steps_reach_the_block_that_waits_for_them(executor: Executor) -> None:
    heard: list[int] = []
    with executor.announced(heard.append):
        assert sorted(executor.run(three_steps, range(2))) == [0, 1]
        wait_until(lambda: len(heard) == 6)
    assert heard == [2] * 6


def test_warnings_of_the_setup_reach_the_user(executor: Executor, notes: list[str]) -> None:
    wait_until(lambda: notes == ["the disk is slow"])


def test_an_interrupt_in_the_block_releases_what_was_prepared(tmp_path: Path) -> None:
    def stop(state: str, number: int) -> int:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        open_executor(ClusterSettings(Local(0)), Demand(), print) as opened,
        opened.prepared(Telling(tmp_path), print),
    ):
        list(opened.run(stop, range(3)))
    assert (tmp_path / "released").exists()


def test_the_serial_executor_starts_no_process_and_opens_no_port() -> None:
    process = psutil.Process()
    before = process.children(recursive=True), process.net_connections("inet")
    with open_executor(ClusterSettings(Local(0)), Demand(), print) as opened:
        assert list(opened.run(lambda *_: os.getpid(), range(2))) == [os.getpid()] * 2
        assert (process.children(recursive=True), process.net_connections("inet")) == before


@pytest.mark.parametrize(("device", "seen"), [("auto", "GPU-7"), ("cuda", "GPU-7"), ("cpu", "")])
def test_this_process_has_one_gpu_at_most_as_a_worker_has(
    device: DeviceUse, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before")
    settings = ClusterSettings(Local(0, gpus=("GPU-7", "GPU-8")), device=device)
    with open_executor(settings, Demand(), print) as opened:
        assert list(opened.run(lambda *_: os.environ["CUDA_VISIBLE_DEVICES"], [0])) == [seen]
        assert opened.uses_gpus() == bool(seen)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "before"


def test_a_required_gpu_that_is_missing_is_refused() -> None:
    settings = ClusterSettings(Local(0, gpus=()), device="cuda")
    with pytest.raises(ClusterError, match="torch sees no GPU on this machine"):
        open_executor(settings, Demand(), print).__enter__()


def test_workers_that_end_slowly_do_not_fail_a_finished_build(monkeypatch: pytest.MonkeyPatch) -> None:
    close = SpecCluster.close

    def close_slowly(cluster: SpecCluster) -> None:
        close(cluster)
        raise TimeoutError  # as Dask does if a killed worker is still there after nine seconds

    monkeypatch.setattr(SpecCluster, "close", close_slowly)
    with cluster_of(ClusterSettings(Local(1))) as opened:
        assert list(opened.run(square, [3])) == [9]
