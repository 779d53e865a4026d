"""Reading what strangers may have put there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from upath import UPath

from synthpipe.files import parse_json, read_regular


def test_a_file_is_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file", 5) == read_regular(tmp_path / "link", 5) == b"12345"


def test_what_is_larger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    memory = UPath("memory://bounds/file")
    memory.write_bytes(b"12345")
    for path in (tmp_path / "file", memory):
        with pytest.raises(OSError, match="has 5 bytes, expected at most 4"):
            read_regular(path, 4)
    assert read_regular(memory, 5) == b"12345"
    with pytest.raises(OSError, match="expected at most 10"):
        read_regular(Path("/proc/self/status"), 10)  # says that it has no bytes


def test_nothing_but_files_is_read_or_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("pipe", "/dev/zero", ".", "socket"):
            with pytest.raises(OSError, match=r"is a (named pipe|device|folder), expected a file|No such device"):
                read_regular(tmp_path / name, 100)


def test_json_without_end_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
