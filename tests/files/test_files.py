"""Reading what strangers may have put there."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest
from upath import UPath

from synthpipe.core.errors import AccessError, StoreError
from synthpipe.core.strict_json import parse_json
from synthpipe.files.locations import translate_errors
from synthpipe.files.reading import read_regular


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


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            StoreError,
            "No space left on device; free some space, then run",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            StoreError,
            "Disk quota exceeded; free some space in your quota",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            StoreError,
            "Read-only file system; choose a location",
        ),
        (OSError(errno.EACCES, "Permission denied"), AccessError, "Permission denied; ask its owner for permission"),
        (OSError(errno.EMFILE, "Too many open files"), AccessError, r"allow more open files \(ulimit -n\)"),
        (OSError(errno.ESTALE, "Stale file handle"), AccessError, "check the address and the network"),
        (OSError(errno.EIO, "Input/output error"), StoreError, "Input/output error; check the disk"),
        (
            PermissionError("Forbidden"),
            AccessError,
            "Forbidden; check that the credentials are right",
        ),
        (TimeoutError("Request timed out"), AccessError, "check the address and the network"),
    ],
)
def test_what_goes_wrong_is_told_with_its_own_cure(error: OSError, kind: type[StoreError], message: str) -> None:
    with (
        pytest.raises(StoreError, match=rf"^place: cannot be written: .*{message}") as caught,
        translate_errors(Path("place"), "cannot be written"),
    ):
        raise error
    assert type(caught.value) is kind


def test_a_process_that_may_open_no_more_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(tmp_path, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(AccessError, match=r"file: cannot be read: Too many open files; allow more open files"):
            read_regular(tmp_path / "file", 5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"the name contains U\+0000"):
        read_regular(tmp_path / "a\0.png", 5)


def test_json_without_end_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
