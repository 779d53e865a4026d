"""Small builds in their own processes, which tests kill, and the files that they leave."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from synthpipe.patches.phantom import PhantomSpec, write_phantom
from tests import conftest
from tests.conftest import DEMO

SMALL = (
    *(*conftest.SMALL, "filter.epochs=2"),
    *("curation.wanted=24", "curation.candidates=64", "curation.max_candidates=192"),
)
_UNEQUAL = (
    *("build.json", "run.json", "filter/mosaic.json", "filter/bezier.json", "SHA256SUMS", "report.html"),
    *(".lock", ".driver"),
)
"""Files with seconds, the location of the patches or checksums of such files, and marks of running builds."""


@dataclass(frozen=True, slots=True)
class Builds:
    """Builds of one pipeline from the same patches into any directories."""

    patches: Path
    pixels: str = "stored"

    @classmethod
    def of_phantom(cls, directory: Path) -> Builds:
        write_phantom(directory, PhantomSpec(slides=6, patches=90, size=48, images=0))
        return cls(directory)

    def start(self, run: Path, *options: str) -> subprocess.Popen[str]:
        """Start a build in a process group of its own."""
        own = f"patches.root={self.patches}", f"store.pixels={self.pixels}"
        settings = [part for each in (*SMALL, *own) for part in ("--set", each)]
        command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(run), *settings, *options]
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a shell may ignore Ctrl-C for background jobs, and child processes inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def finish(self, run: Path, *options: str) -> str:
        """Build to the end and return the log."""
        build = self.start(run, *options)
        _, log = build.communicate(timeout=600)
        assert build.returncode == 0, log
        return log


def workers_of(build: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the worker processes of a build."""
    try:
        children = psutil.Process(build.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in children:
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def kill_all(build: subprocess.Popen[str]) -> None:
    """Kill a build and all its processes at once, as in a power cut."""
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    assert build.stderr
    build.stderr.close()


def digests(run: Path) -> dict[str, str]:
    """Return the digest of every file of a run that must not depend on how it was built."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    found = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {name: digest for name, digest in found.items() if name not in _UNEQUAL}


def objects(run: Path) -> dict[str, tuple[int, int]]:
    """Return the objects of all arrays whose shards are written once, with their inodes and times."""
    found = {}
    for path in run.rglob("c.*"):
        if path.parent.name != "verdict" and path.suffix != ".partial":
            stat = path.stat()
            found[str(path.relative_to(run))] = (stat.st_ino, stat.st_mtime_ns)
    return found
