from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from synthpipe.storage import direct_io as objects
from synthpipe.storage.direct_io import ObjectWriter

PARTS = [1, 4095, 4096, 10_000, 3, 70_000, 0, 8192, 12_345]
Write = Callable[[int, NDArray[np.uint8]], int]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_SMALLEST", 8192)


def write(path: Path) -> bytes:
    """Write a file in parts of many sizes; return what it should be."""
    data = np.random.default_rng(0).integers(0, 256, sum(PARTS), dtype=np.uint8)
    file = ObjectWriter(path)
    try:
        for start, size in zip(np.cumsum([0, *PARTS]), PARTS, strict=False):
            file.reserve(size)[:] = data[start : start + size]
        file.finish()
        file.wait()
        file.appear()
    finally:
        file.close()
    return data.tobytes()


def replace_write(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Write, int, NDArray[np.uint8]], int]) -> None:
    real: Any = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: wrap(real, descriptor, data))


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def test_whole_pages_go_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past: list[int] = []

    def watched(real: Write, descriptor: int, data: NDArray[np.uint8]) -> int:
        past.append(data.size if is_direct(descriptor) else 0)
        return real(descriptor, data)

    replace_write(monkeypatch, watched)
    content = write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    if not any(past):
        pytest.skip("this file system always uses its cache")
    assert sum(past) == len(content) // 4096 * 4096


def test_a_file_system_that_refuses_is_written_through_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def refusing(descriptor: int, command: int, flags: int = 0) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    content = write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_a_file_system_that_wants_larger_units_is_written_through_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(real: Write, descriptor: int, data: NDArray[np.uint8]) -> int:
        if is_direct(descriptor):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data)

    replace_write(monkeypatch, refusing)
    content = write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_what_is_taken_in_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_write(
        monkeypatch, lambda real, descriptor, data: real(descriptor, data[: max(data.size // 4096 * 2048, 1)])
    )
    content = write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_a_write_that_fails_is_told(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_there_stays_until_the_new_object_appears(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    writer = ObjectWriter(tmp_path / "file")
    writer.reserve(4)[:] = 0
    writer.finish()
    writer.wait()
    assert (tmp_path / "file").read_text() == "precious"
    writer.close()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
