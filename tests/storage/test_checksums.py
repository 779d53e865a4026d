from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from synthpipe.core.errors import StoreError
from synthpipe.storage.checksums import read_checksums, sha256, write_checksums
from synthpipe.storage.run import RunDirectory


def run_at(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    run.filter.mkdir()
    run.run_file.write_text("{}")
    run.split_file.write_text("[]")
    write_checksums(run, {run.build_file: b"to be written"})
    return run


def test_checksums_hold_the_files_that_are_there_and_those_to_come(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    assert read_checksums(run) == {
        run.run_file: sha256(b"{}"),
        run.split_file: sha256(b"[]"),
        run.build_file: sha256(b"to be written"),
    }


def test_no_byte_of_the_sums_can_change_unseen(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    whole = run.sums_file.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        run.sums_file.write_bytes(bytes(broken))
        with pytest.raises(StoreError, match="SHA256SUMS"):
            read_checksums(run)
    run.sums_file.write_bytes(whole + b"\n")
    with pytest.raises(StoreError):
        read_checksums(run)
    run.sums_file.unlink()
    with pytest.raises(StoreError, match="does not exist"):
        read_checksums(run)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="has no sha256sum")
def test_sha256sum_reads_them(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    run.build_file.write_text("to be written")
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    run.split_file.write_text("{}")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1
