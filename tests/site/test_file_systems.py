"""File systems that do less than a local disk."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from synthpipe.files.locations import parse_location
from synthpipe.patches.listing import listing
from synthpipe.storage.direct_io import LocalFile


def test_an_object_is_closed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems refuse to rename a file that is open."""
    replace = Path.replace

    def refusing(path: Path, target: Path) -> Path:
        for each in Path("/proc/self/fd").iterdir():
            if each.exists() and each.samefile(path):
                raise OSError(16, "Device or resource busy")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refusing)
    file = LocalFile(tmp_path / "object")
    file.finish(np.arange(10, dtype=np.uint8))
    file.appear()
    file.close()
    assert [each.name for each in tmp_path.iterdir()] == ["object"] and (tmp_path / "object").stat().st_size == 10


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_do_no_harm(tmp_path: Path, closed: str) -> None:
    options = "--patch-count 6 --slide-count 2 --size 48 --image-count 0"
    command = f"{sys.executable} -m synthpipe phantom {tmp_path}/phantom {options} {closed}"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0


def test_names_that_a_web_server_lists_are_not_escaped(tmp_path: Path) -> None:
    (tmp_path / "tumour core").mkdir()
    (tmp_path / "tumour core" / "a b.png").touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            folder = parse_location(f"http://127.0.0.1:{server.server_port}/")
            assert listing(folder) == [("tumour core", True)]
            assert listing(folder / "tumour core") == [("a b.png", False)]
        finally:
            server.shutdown()
