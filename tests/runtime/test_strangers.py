"""What other users of the machine can reach of a build, and plant for it."""

from __future__ import annotations

import asyncio
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
from distributed import Client, Security
from distributed.core import connect

from synthpipe.build import build
from synthpipe.core.progress import Advance, Silent
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Demand, Local
from synthpipe.runtime.cluster import open_cluster
from tests.conftest import SMALL, pipeline
from tests.runtime.conftest import two


def listening(process: psutil.Process) -> list[int]:
    """Return the ports of a process and of those that it started."""
    family = [process, *process.children(recursive=True)]
    return [
        each.laddr.port for one in family for each in one.net_connections("inet") if each.status == psutil.CONN_LISTEN
    ]


def refuses(port: int) -> bool:
    """Whether nobody gets an answer who has no key, or another one, whatever they speak."""

    async def ask(address: str, security: Security) -> None:
        comm = await connect(address, timeout=2, **security.get_connection_args("client"))
        await comm.write({"op": "identity", "reply": True})
        await asyncio.wait_for(comm.read(), 2)

    for address, security in (
        (f"tcp://127.0.0.1:{port}", Security()),
        (f"tls://127.0.0.1:{port}", Security.temporary()),
    ):
        with pytest.raises((OSError, TimeoutError)):
            asyncio.run(ask(address, security))
    with pytest.raises((OSError, TimeoutError)):
        Client(f"tcp://127.0.0.1:{port}", timeout=2)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            return not plain.recv(100).startswith(b"HTTP")
        except OSError:
            return True


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory in which another user made Dask's directory before, and put a module into it."""
    folder = tmp_path / "tmp"
    scratch = folder / "dask-scratch-space"
    scratch.mkdir(parents=True)
    scratch.chmod(0o777)
    code = f"import os\nopen(os.path.join({str(tmp_path)!r}, 'planted'), 'a').close()\nraise ImportError\n"
    for module in ("zict", "psutil", "sortedcontainers", "tblib"):
        (scratch / f"{module}.py").write_text(code)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert not (tmp_path / "planted").exists()
    assert [each.name for each in folder.iterdir()] == ["dask-scratch-space"]


class Watcher(Silent):
    """Looks at the build while it renders."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.refused: list[bool] = []
        self.path: list[str] = []
        self.notes: list[str] = []

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        if "mosaic" in title and not self.ports:
            self.path += sys.path
            self.ports = listening(psutil.Process())
            self.refused = [refuses(port) for port in self.ports]
        return super().stage(title, total)

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_build_takes_nothing_from_strangers_and_tells_them_nothing(tmp_path: Path, shared: Path) -> None:
    write_phantom(tmp_path / "phantom", PhantomSpec(slides=6, patches=60, size=48, images=0))
    settings = pipeline(*SMALL, f"patches.root={tmp_path / 'phantom'}", "filter.enabled=false")
    watcher = Watcher()
    build(settings, tmp_path / "run", ClusterSettings(Local(workers=1)), watcher)
    # scheduler, nanny, worker
    assert len(watcher.ports) == 3 and all(watcher.refused)
    assert not any(path.startswith(str(shared / "dask")) for path in watcher.path)
    assert not [note for note in watcher.notes if "http" in note]


def workers_path() -> list[str]:
    return sys.path


def test_workers_load_code_from_private_folders_only(shared: Path) -> None:
    with open_cluster(two(), Demand(), lambda message: None) as cluster:
        (private,) = shared.glob("synthpipe-*")
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        for paths in [sys.path, *cluster.client.run(workers_path).values()]:
            assert [each for each in paths if each.startswith(str(shared))]
            assert all(each.startswith(f"{private}/") for each in paths if each.startswith(str(shared)))


def test_keys_are_in_no_file_command_or_environment(shared: Path) -> None:
    with open_cluster(two(), Demand(), lambda message: None) as cluster:
        key = str(cluster.client.security.tls_client_key).splitlines()[1]
        for each in psutil.Process().children(recursive=True):
            assert key not in "\n".join([*each.cmdline(), *each.environ().values()])
        assert not [file for file in shared.rglob("*") if file.is_file() and key in file.read_text("latin-1")]
