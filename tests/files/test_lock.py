from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from synthpipe.core.errors import StaleRunError
from synthpipe.files import lock
from synthpipe.files.folders import Kind
from synthpipe.files.locations import Location, parse_location
from synthpipe.files.lock import held, holder_of

KIND = Kind("test", ())
HOLDER = """
import os, sys, time
from synthpipe.files.locations import parse_location
from synthpipe.files.folders import Kind
from synthpipe.files.lock import held
with held(parse_location(sys.argv[1]), Kind("test", ())):
    print("held", flush=True)
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture(params=["disk", "disk without locks", "disk whose locks do nothing", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    monkeypatch.setattr(lock, "_RENEWED", 0.2)
    monkeypatch.setattr(lock, "_SILENCE", 0.6)
    if request.param == "disk without locks":

        def refuse(*_: Any) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", refuse)
    if request.param == "disk whose locks do nothing":
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    yield parse_location("memory://run") if request.param == "memory" else tmp_path / "run"
    MemoryFileSystem.store.clear()


def test_a_run_is_built_by_one_at_a_time(run: Location) -> None:
    with held(run, KIND):
        with pytest.raises(StaleRunError, match=r"run: is being written by process \d+ on "), held(run, KIND):
            pass
        time.sleep(1)  # longer than a lock lives that is not renewed
        with pytest.raises(StaleRunError, match="wait for it, stop it, or choose another"), held(run, KIND):
            pass
    with held(run, KIND):
        pass
    assert not (run / ".lock").exists() or not (run / ".lock").read_bytes(), "says nothing of the machine"


def test_who_holds_a_run_is_told_and_how_that_is_known(run: Location, request: pytest.FixtureRequest) -> None:
    source = "" if request.node.callspec.params["run"] == "disk" else ", as its lock says"
    with held(run, KIND):
        assert holder_of(run) == f"process {os.getpid()} on {os.uname().nodename}{source}"
    assert holder_of(run) is None


def test_a_lock_that_is_not_renewed_is_nobodys(run: Location) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / ".lock").write_text('{"host": "elsewhere", "process": 1, "build": "x", "renewed": 3}')
    with held(run, KIND):
        pass


@pytest.mark.parametrize("run", ["disk without locks", "memory"], indirect=True)
def test_a_training_whose_lock_was_taken_over_does_not_end_as_if_it_had_stopped_by_itself(run: Location) -> None:
    other = b'{"host": "elsewhere", "process": 1, "build": "x", "renewed": 3}'
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with pytest.raises(StaleRunError, match="is being written by process 1 on elsewhere"), held(run, KIND):
            (run / ".lock").write_bytes(other)
            deadline = time.monotonic() + 5
            while not asked and time.monotonic() < deadline:
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked and (run / ".lock").read_bytes() == other


@pytest.mark.parametrize("run", ["disk without locks", "memory"], indirect=True)
def test_a_build_whose_lock_was_taken_over_stops_and_leaves_it_alone(run: Location) -> None:
    other = b'{"host": "elsewhere", "process": 1, "build": "x", "renewed": 3}'

    def stop(*_: Any) -> None:  # as the command line has it
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(StaleRunError, match="is being written by process 1 on elsewhere"), held(run, KIND):
            (run / ".lock").write_bytes(other)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (run / ".lock").read_bytes() == other


@pytest.mark.parametrize("forks", [[], ["forks"]], ids=["alone", "with a child that outlives it"])
def test_a_process_that_was_killed_lets_go(tmp_path: Path, forks: list[str]) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), *forks], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StaleRunError, match=f"process {holder.pid} on "), held(tmp_path, KIND):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with held(tmp_path, KIND):
        pass
