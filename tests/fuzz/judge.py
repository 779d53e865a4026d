"""The judge: gives cases to workers, watches them, and collects what must not happen."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import psutil

from tests.fuzz.worker import Finding, State, work

LIMIT = 5.0
"""Seconds of processor time that a step of a case may take."""

_WAITING = 6  # times the limit that a step may wait for something: the machine may be busy
_STARTING = 600.0  # a worker makes what its cases need


@dataclass
class Verdict:
    """What came of the cases of one target.

    Attributes
    ----------
    findings : dict
        The first finding of each kind and cause.
    counts : Counter
        How many cases have each.
    """

    target: str
    cases: int = 0
    seconds: float = 0.0
    accepted: int = 0
    refused: int = 0
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, finding: Finding) -> bool:
        """Add a finding; return whether it is the first of its kind and cause."""
        key = finding.kind, finding.what
        first = self.findings.setdefault(key, finding)
        if finding.case < first.case:
            self.findings[key] = finding
        self.counts[key] += 1
        return self.counts[key] == 1

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        found = [{**vars(each), "cases": self.counts[key]} for key, each in self.findings.items()]
        about = {name: getattr(self, name) for name in ("target", "cases", "accepted", "refused")}
        return about | {"seconds": round(self.seconds, 1), "findings": found}


@dataclass(frozen=True)
class Trial:
    """Which cases are tried, and how."""

    name: str
    spec: str
    numbers: range
    seed: int
    cache: Path
    workers: int = 2
    limit: float = LIMIT
    show: Callable[[str], None] | None = None


class Reporter(Protocol):
    """Told while cases are tried."""

    def done(self, cases: int) -> None:
        """Hear that so many more cases are done."""

    def found(self, finding: Finding) -> None:
        """Hear of the first finding of a kind and cause."""


class Silent:
    """Tells nobody."""

    def done(self, cases: int) -> None:
        pass

    def found(self, finding: Finding) -> None:
        pass


class _Seat:
    """A worker process, and what it has to do; started again where it ends."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        self._trial, self._folder = trial, folder
        self.state = RawValue(State)
        self.todo = range(0)
        self._step = 0.0, 0.0  # when the present step began, and the processor time then
        self.ready = False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        trial = self._trial
        arguments = (trial.name, trial.spec, trial.cache, self._folder, trial.seed, trial.limit)
        self.process = context.Process(
            target=work, args=(*arguments, self.state, theirs, trial.show is not None), daemon=False
        )
        self.state.began, self.state.case = 0.0, -1
        self.ready, self.started = False, monotonic()
        self.process.start()
        theirs.close()

    @property
    def waits_on(self) -> list[Connection | int]:
        return [self.pipe, self.process.sentinel]

    def give(self, numbers: range) -> None:
        self.todo = numbers
        if numbers:
            self.pipe.send(numbers)

    def hangs(self) -> bool:
        if not self.ready:
            return monotonic() - self.started > _STARTING
        began, limit = self.state.began, self.state.limit
        waited = monotonic() - began if began else 0.0
        return bool(waited > _WAITING * limit or (waited > limit and self._worked(began) > limit))

    def _worked(self, began: float) -> float:
        """Return the processor time of the step that began then, since it was first asked for."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.process.pid).cpu_times()
            worked = times.user + times.system
            if self._step[0] != began:
                self._step = began, worked
            return worked - self._step[1]
        return 0.0

    def noise(self) -> str:
        path = self._folder / "noise.txt"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def again(self, first: int) -> None:
        """Start anew with what is left from case number `first` on."""
        self.end()
        self.todo = range(first, self.todo.stop)
        self._start()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class WorkerError(RuntimeError):
    """A worker cannot even start."""


def judge(trial: Trial, reporter: Reporter = Silent()) -> Verdict:  # noqa: B008 - it has no state
    """Try the cases, and return what came of them.

    Raises
    ------
    WorkerError
        A worker does not start: the target itself is at fault.
    """
    found = Verdict(trial.name, len(trial.numbers))
    begin = monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seats: list[_Seat] = []
        try:
            _watch(trial, Path(folder), seats, found, reporter)
        finally:
            for seat in seats:
                seat.end()
    found.seconds = monotonic() - begin
    found.accepted = sum(seat.state.accepted for seat in seats)
    found.refused = sum(seat.state.refused for seat in seats)
    return found


def _watch(trial: Trial, folder: Path, seats: list[_Seat], found: Verdict, reporter: Reporter) -> None:
    # the first worker makes what is made once; the others start when it is there
    seats.append(_Seat(trial, folder / "0"))
    size = max(1, min(1000, len(trial.numbers) // (8 * trial.workers)))
    batches = [trial.numbers[start : start + size] for start in range(0, len(trial.numbers), size)][::-1]
    left = len(batches)
    while left:
        if seats[0].ready and len(seats) < min(trial.workers, left):
            seats.append(_Seat(trial, folder / str(len(seats))))
        wait([each for seat in seats for each in seat.waits_on], timeout=0.1)
        for seat in seats:
            for message in _messages(seat):
                if isinstance(message, Finding):
                    if found.add(message):
                        reporter.found(message)
                elif message == "ready":
                    seat.ready = True
                    seat.give(seat.todo)
                elif message == "done":
                    left -= 1
                    reporter.done(len(seat.todo))
                    seat.todo = range(0)
                elif trial.show:
                    trial.show(message)
            if not seat.process.is_alive() or seat.hangs():
                left -= _ended(seat, found, reporter)
            elif seat.ready and not seat.todo and batches:
                seat.give(batches.pop())


def _messages(seat: _Seat) -> list[Any]:
    found = []
    try:
        while seat.pipe.poll():
            found.append(seat.pipe.recv())
    except (EOFError, OSError):
        pass
    return found


def _ended(seat: _Seat, found: Verdict, reporter: Reporter) -> int:
    """Say why a worker ended or has to; start it anew, and return how many batches are done by that."""
    case, step = seat.state.case, seat.state.step.decode()
    if not seat.ready or case < 0:
        code = seat.process.exitcode
        seat.end()
        raise WorkerError(f"a worker of {found.target} does not start, exit code {code}:\n{seat.noise()}")
    if seat.process.is_alive():
        finding = Finding("hang", f"longer than {seat.state.limit:.0f} s in {step}", case, step, "")
    else:
        code = seat.process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        finding = Finding("crash", f"{name} in {step}", case, step, seat.noise())
    if found.add(finding):
        reporter.found(finding)
    done = case + 1 >= seat.todo.stop
    seat.again(case + 1)
    return int(done)
