from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from synthpipe.errors import CatalogError
from synthpipe.runtime import local_client, run_tasks


def leave_mark(directory: Path) -> None:
    (directory / str(os.getpid())).touch()


def square(number: int) -> int:
    return number * number


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise CatalogError("patch 'seven' is broken")
    return number


def die_once(argument: tuple[Path, int]) -> int:
    directory, number = argument
    if number % 5 == 0:
        try:
            (directory / f"died-{number}").touch(exist_ok=False)
        except FileExistsError:
            return number
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def client(marks: Path) -> Iterator[Client]:
    with local_client(2, partial(leave_mark, marks)) as client:
        yield client


def test_every_argument_gets_its_result(client: Client) -> None:
    assert sorted(run_tasks(client, square, range(50))) == [number**2 for number in range(50)]
    assert list(run_tasks(client, square, [])) == []


def test_workers_are_prepared_processes_on_loopback(client: Client, marks: Path) -> None:
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 2 and os.getpid() not in pids
    assert {mark.name for mark in marks.iterdir()} >= set(map(str, pids))
    assert all(address.startswith("tcp://127.0.0.1:") for address in client.nthreads())
    assert set(client.nthreads().values()) == {1}


def test_arguments_are_taken_only_as_results_are_made(client: Client) -> None:
    taken = 0

    def arguments() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    results = run_tasks(client, square, arguments())
    for done in range(1, 100):
        next(results)
        assert taken <= done + 6
    results.close()  # type: ignore[attr-defined]


def test_what_a_task_raises_reaches_the_caller_and_the_cluster_lives_on(client: Client) -> None:
    with pytest.raises(CatalogError, match="patch 'seven' is broken"):
        list(run_tasks(client, fail_at_seven, range(100)))
    assert sorted(run_tasks(client, square, range(5))) == [0, 1, 4, 9, 16]


def test_killed_workers_cost_no_result(client: Client, tmp_path: Path) -> None:
    found = sorted(run_tasks(client, die_once, [(tmp_path, number) for number in range(20)]))
    assert found == list(range(20))
    assert len(list(tmp_path.glob("died-*"))) == 4
