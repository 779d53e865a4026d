from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from synthpipe.core.errors import StoreError
from synthpipe.segment.evaluation import draw_curves
from synthpipe.segment.journal import Table

SOUND = "step,loss\n0,0.5\n1,0.25\n"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def containing(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


DAMAGED = [
    (containing(SOUND.encode() + b"2\n"), "line 4 has 1 values, expected 2"),
    (containing(SOUND.encode() + b"2,3,4\n"), "line 4 has 3 values, expected 2"),
    (containing(SOUND.encode() + bytes(8) + b"\n"), "line 4 has 1 values, expected 2"),
    (containing(b"step,loss\n0,low\n"), "could not convert string to float: 'low'"),
    (containing(b"step,$x$\n0,1\n"), r"it has a column '\$x\$'"),
    (containing(b"\xff\xfe\n"), "codec can't decode"),
    (pipe, "is a named pipe, expected a file"),
]


@pytest.mark.parametrize(("make", "why"), DAMAGED)
def test_a_damaged_table_is_refused(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    make(tmp_path / "epochs.csv")
    with pytest.raises(StoreError, match=rf"epochs\.csv: cannot be resumed: .*{why}.*; remove the file, or train into"):
        Table(tmp_path / "epochs.csv", 5)
    with pytest.raises(StoreError, match=rf"epochs\.csv: cannot be drawn: .*{why}.*; remove the file to skip"):
        draw_curves(tmp_path, tmp_path / "curves.png")


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text(SOUND)
    table = Table(tmp_path / "steps.csv", 2)
    with pytest.raises(
        StoreError, match=r"steps\.csv: its columns are step, loss, expected step, dice; remove the file"
    ):
        table.add([{"step": 2, "dice": 0.5}])


def test_a_table_resumes_after_its_last_whole_line(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text(SOUND + "2,0.1")
    table = Table(tmp_path / "steps.csv", 5)
    table.add([{"step": 2, "loss": 0.75}])
    assert (tmp_path / "steps.csv").read_text() == SOUND + "2,0.75\n"
