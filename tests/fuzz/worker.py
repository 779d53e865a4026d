"""A process that tries cases: its limits, what it may touch, and what it reports."""

from __future__ import annotations

import faulthandler
import importlib
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import Structure, c_char, c_double, c_int64
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

from synthpipe.core.errors import SynthpipeError
from tests.fuzz.target import Target, Unforeseen, WrongError, case_rng, is_of_memory

MEMORY = 1 << 30
"""Bytes that a case may take beyond the idle process."""

_GUARD = 2 << 30  # address space beyond the idle process: what asks for more gets a MemoryError
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.utime", "os.mkfifo", "os.mknod", "shutil.rmtree", "shutil.move"),
}
_SHARED = ("/dev/null", "/dev/shm", "/proc/self")
_PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
_HOME = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME", "TMPDIR")


class State(Structure):
    """What the judge sees of a worker at any time.

    `case` is the number of the case under way, `began` when its present step did (0: none is under way), `limit` how
    long the step may take, in seconds.
    """

    _fields_ = (
        ("case", c_int64),
        ("accepted", c_int64),
        ("refused", c_int64),
        ("began", c_double),
        ("limit", c_double),
        ("step", c_char * 40),
    )


@dataclass(frozen=True)
class Finding:
    """Something that a case must not do: `what` is equal for cases of one cause, `detail` is of this case."""

    kind: str
    what: str
    case: int
    step: str
    detail: str


@dataclass(frozen=True)
class Folders:
    """The folders of one worker, see `target.Place`."""

    case: Path
    elsewhere: Path
    canary: Path
    home: Path

    @classmethod
    def of(cls, folder: Path) -> Folders:
        found = cls(*(folder / name for name in ("case", "elsewhere", "canary", "home")))
        for each in (found.case, found.elsewhere, found.canary, found.home):
            each.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate((found.elsewhere, found.canary)):
            (each / "thesis.txt").write_text(f"years of work {number}\n")
            (each / "thesis.json").write_text("{}\n")
        return found

    def stamps(self) -> list[tuple[int, int, int]]:
        """Return what changes when somebody writes where a case must not."""
        paths = [path for folder in (self.elsewhere, self.canary) for path in (folder, *folder.iterdir())]
        return [(found.st_ino, found.st_size, found.st_mtime_ns) for found in map(os.lstat, paths)]


class Guard:
    """Sees every file that is opened, every name that changes, every process and connection, and blocks what harms.

    C libraries that open files by themselves are not seen: for those `Folders.stamps` are compared.
    """

    def __init__(self, folders: Folders) -> None:
        self._inside = tuple(os.path.realpath(each) for each in (folders.case, folders.home))
        self._canary = os.path.realpath(folders.canary)
        self.active = False
        self.allowed_hosts = frozenset[str]()
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            self._opened(*arguments)
        elif event in _CHANGES:
            for path in arguments[1 if event in ("os.symlink", "os.link") else 0 : 2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._changed(event, path)
        elif event in _PROCESSES:
            self._refuse("process", f"{event} {str(arguments[0])[:100]}")
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            self._connected(str(arguments[1][0]))
        elif event == "socket.getaddrinfo":
            self._connected(os.fsdecode(arguments[0] or ""))

    def _opened(self, path: object, mode: object, flags: int) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        with self._asleep():
            real = os.path.realpath(os.fsdecode(path))
        if real.startswith(self._canary):
            self._refuse("outside", "the canary was opened")
        if flags & _WRITES:
            self._changed("open", path)

    def _changed(self, event: str, path: Any) -> None:
        with self._asleep():
            given = Path(os.fsdecode(path))
            real = str(given.parent.resolve() / given.name)  # of a link itself, not of what it names
        if not real.startswith((*self._inside, *_SHARED)) and "__pycache__" not in real:
            self._refuse("outside", f"{event} of a path outside of the case's folder")

    def _connected(self, host: str) -> None:
        if host not in self.allowed_hosts:
            self.seen.append(("network", f"a connection to {host}"))
        raise socket.gaierror(socket.EAI_FAIL, "the fuzz command lets nobody connect")

    def _refuse(self, kind: str, what: str) -> None:
        self.seen.append((kind, what))
        raise PermissionError(f"the fuzz command lets nobody do that: {what}")

    @contextmanager
    def _asleep(self) -> Iterator[None]:
        self.active = False
        try:
            yield
        finally:
            self.active = True


class Worker:
    """Tries cases of one target, and tells the judge through `state` and `pipe`."""

    def __init__(self, name: str, spec: str, cache: Path, folder: Path, seed: int, limit: float, state: Any) -> None:
        self.name, self.seed, self.limit, self.state = name, seed, limit, state
        self.folders = Folders.of(folder)
        for variable in _HOME:
            os.environ[variable] = str(self.folders.home)
        tempfile.tempdir = None
        os.environ |= {"OMP_NUM_THREADS": "1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        self._noise = (folder / "noise.txt").open("w+b", buffering=0)
        for descriptor in (1, 2):
            os.dup2(self._noise.fileno(), descriptor)
        faulthandler.enable(self._noise)
        self.started_in = Path.cwd()
        os.chdir(self.folders.home)
        module, _, attribute = spec.partition(":")
        self.target: Target[Any] = getattr(importlib.import_module(module), attribute)(cache, self.folders, self.step)
        self.guard = Guard(self.folders)
        self.guard.allowed_hosts = frozenset(getattr(self.target, "allowed_hosts", ()))
        self._idle = _peak()
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + _GUARD, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def step(self, name: str, times: int = 1) -> None:
        self.state.step = name.encode()[:39]
        self.state.limit = self.limit * times
        self.state.began = monotonic()

    def make(self, number: int) -> Any:
        return self.target.make(case_rng(self.seed, self.name, number))

    def trial(self, number: int) -> list[Finding]:
        """Try one case, and return what it must not do."""
        self.state.case = number
        self.step("make", 100)
        case = self.make(number)
        self.folders.case.mkdir(exist_ok=True)
        before = self.folders.stamps()
        noise = os.fstat(self._noise.fileno()).st_size
        self.step("run")
        found = self._run(case)
        step = self.state.step.decode()
        self.state.began = 0
        if self.folders.stamps() != before:
            found.append(("outside", "files outside of the case's folder changed", ""))
        if said := os.pread(self._noise.fileno(), 2000, noise).decode("utf-8", "replace"):
            found.append(("noise", said.split(maxsplit=1)[0], said))
        if (peak := _peak()) > self._idle + MEMORY:
            found.append(("memory", f"{(peak - self._idle) / (1 << 30):.1f} GiB in {step}", ""))
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            self._idle = _peak()
        once = {(kind, what): Finding(kind, what, number, step, detail) for kind, what, detail in found}
        return [*once.values()]

    def _run(self, case: Any) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        self.guard.seen.clear()
        with warnings.catch_warnings(record=True) as warned:
            for category in (UserWarning, RuntimeWarning):
                warnings.simplefilter("always", category)
            self.guard.active = True
            try:
                accepted = self.target.run(case)
            except BaseException as error:
                accepted = False
                self.guard.active = False
                found += _explained(error)
            finally:
                self.guard.active = False
        if accepted:
            self.state.accepted += 1
        else:
            self.state.refused += not found
        found += [(kind, what, "") for kind, what in self.guard.seen]
        found += [
            ("warning", f"{each.category.__name__} of {Path(each.filename).name}", str(each.message))
            for each in warned
            if issubclass(each.category, UserWarning | RuntimeWarning)
        ]
        return found


def _explained(error: BaseException) -> list[tuple[str, str, str]]:
    """Return the finding that an exception is; none where it is a clear refusal."""
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, WrongError):
        return [("wrong", str(error), detail)]
    if is_of_memory(error):
        return [("memory", f"MemoryError {_place(error)}", detail)]
    if isinstance(error, SynthpipeError):
        return []
    if isinstance(error, Unforeseen) and error.__cause__:
        error = error.__cause__
    return [("exception", f"{type(error).__name__} {_place(error)}", detail)]


def _place(error: BaseException) -> str:
    """Return where in synthpipe an error was raised, and where below it."""
    while isinstance(error, SynthpipeError | Unforeseen) and error.__cause__:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/synthpipe/" in frame.filename] or frames
    if not frames:
        return "somewhere"
    name = own[-1].filename.rpartition("/synthpipe/")[2]
    below = f", {Path(frames[-1].filename).name}:{frames[-1].name}" if frames[-1] is not own[-1] else ""
    return f"at {name}:{own[-1].name}{below}"


def _peak() -> int:
    """Return the most memory that this process had, in bytes, since the peak was last set back."""
    found = re.search(rb"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_bytes())
    return int(found[1]) * 1024 if found else 0


def work(
    name: str, spec: str, cache: Path, folder: Path, seed: int, limit: float, state: Any, pipe: Connection, show: bool
) -> None:
    """Be a worker: take ranges of numbers from `pipe` until None comes, and send findings."""
    shutil.rmtree(folder, ignore_errors=True)
    worker = Worker(name, spec, cache, folder, seed, limit, state)
    pipe.send("ready")
    for numbers in iter(pipe.recv, None):
        for number in numbers:
            if show:
                pipe.send(worker.target.show(worker.make(number), worker.started_in))
            for finding in worker.trial(number):
                pipe.send(finding)
        pipe.send("done")
