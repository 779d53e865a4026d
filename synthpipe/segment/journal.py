"""Record a training while it runs: losses per step and metrics per epoch, as CSV files and for TensorBoard."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from synthpipe.core.display import printable
from synthpipe.core.errors import StoreError
from synthpipe.core.records import Image
from synthpipe.files.reading import read_regular
from synthpipe.files.writing import write_atomically
from synthpipe.segment.board import Board
from synthpipe.segment.devices import on_rank_zero
from synthpipe.segment.losses import Losses

_LARGEST = 4 << 30  # largest size in bytes of a table


class Table:
    """A CSV file that grows row by row; its first column is an increasing integer key.

    Floats are written with all their bits.

    Parameters
    ----------
    path : Path
        The file; if it exists, its rows with a key below `end` are kept.
    end : int
        Rows with a key of `end` or more are dropped, because the training makes them again.
    """

    def __init__(self, path: Path, end: int) -> None:
        self.path = path
        try:
            self.rows = (
                [row for row in read_table(path) if next(iter(row.values())) < end] if path.exists() and end else []
            )
            self._header = list(self.rows[0]) if self.rows else []
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path}: cannot be resumed: {printable(reason(error))}; remove the file, or train into another folder"
            ) from error
        write_atomically(path, self._text(self.rows, header=True) if self.rows else "")

    def add(self, rows: list[dict[str, float]]) -> None:
        """Append rows that all have the same columns."""
        if not rows:
            return
        first = not self._header
        self._header = self._header or list(rows[0])
        if self._header != list(rows[0]):
            raise StoreError(
                f"{self.path}: its columns are {', '.join(self._header)[:200]}, expected {', '.join(rows[0])}; remove "
                "the file, or train into another folder"
            )
        self.rows += rows
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text(rows, header=first))
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written: {error}; free some space, then run the command again"
            ) from error

    def _text(self, rows: list[dict[str, float]], header: bool) -> str:
        buffer = io.StringIO()
        table = csv.DictWriter(buffer, self._header, lineterminator="\n")
        if header:
            table.writeheader()
        table.writerows({key: _number(value) for key, value in row.items()} for row in rows)
        return buffer.getvalue()


class Journal:
    """Write the records of a training to ``steps.csv``, ``epochs.csv`` and ``tensorboard/`` in its folder.

    Parameters
    ----------
    directory : Path
        The training's folder.
    step, epoch : int
        The step and the epoch at which training begins or resumes; rows of these and later ones are dropped.
    settings : str
        The training's settings as YAML.
    """

    def __init__(self, directory: Path, step: int = 0, epoch: int = 0, settings: str = "") -> None:
        self.steps = Table(directory / "steps.csv", step)
        self.epochs = Table(directory / "epochs.csv", epoch)
        self.board = Board(directory / "tensorboard", step, settings)

    def add_steps(self, rows: list[dict[str, float]]) -> None:
        """Write the rows of steps; the first key of each row must be ``step``."""
        self.steps.add(rows)
        for row in rows:
            self.board.add_step(row)

    def add_epoch(self, row: dict[str, float], pictures: Mapping[str, Sequence[Image]]) -> None:
        """Write the row of an epoch, and its pictures by name.

        The first key of the row must be ``epoch``. It must also have ``step``, the number of steps done at its end.
        """
        self.epochs.add([row])
        self.board.add_epoch(row)
        for name, shown in pictures.items():
            self.board.add_pictures(name, shown, int(row["step"]))
        self.board.flush()

    def close(self) -> None:
        self.board.close()


class Rows:
    """Rows of steps whose losses are still on the device; fetching losses after each step would slow training."""

    def __init__(self, fabric: Fabric, journal: Journal | None) -> None:
        self._fabric, self._journal = fabric, journal
        self._waiting: list[tuple[dict[str, float], Tensor]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, step: int, epoch: int, rate: float, terms: Losses, total: Tensor, begun: float, waited: float
    ) -> None:
        known = {"step": step, "epoch": epoch, "learning_rate": rate, "waiting": waited, "begun": begun}
        self._waiting.append((known, torch.stack([total, *(term.detach() for term in terms)])))

    def flush(self) -> list[dict[str, float]]:
        """Fetch the losses from the device, write the rows to the journal, and return them."""
        if not self._waiting:
            return []
        values = torch.stack([value for _, value in self._waiting])
        if self._fabric.world_size > 1:
            values = self._fabric.all_reduce(values, reduce_op="mean")  # type: ignore[assignment]
        fetched = values.tolist()  # waits until the device has computed the steps
        ends = [known["begun"] for known, _ in self._waiting[1:]] + [time.perf_counter()]
        rows = []
        for (known, _), numbers, end in zip(self._waiting, fetched, ends, strict=True):
            begun = known.pop("begun")
            rows.append({**known, **dict(zip(("loss", *Losses._fields), numbers, strict=True)), "seconds": end - begun})
        self._waiting = []
        on_rank_zero(self._fabric, lambda: self._journal.add_steps(rows) if self._journal else None)
        return rows


def read_table(path: Path) -> list[dict[str, float]]:
    """Read the rows of a CSV file of numbers; an incomplete last line is left out.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or is damaged.
    """
    text = read_regular(path, _LARGEST).decode()
    whole = text[: text.rfind("\n") + 1]  # the process may have been killed while it wrote a line
    try:
        header, *rows = csv.reader(io.StringIO(whole)) if whole else ([],)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    for name in header:
        if not re.fullmatch(r"[\w ./-]+", name):
            raise ValueError(f"it has a column {name[:100]!r}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} values, expected {len(header)}")
    return [dict(zip(header, map(_parse, row), strict=True)) for row in rows]


def reason(error: OSError | ValueError) -> str:
    """Return the reason why a table cannot be read, without the table's path."""
    return getattr(error, "strerror", None) or str(error)


def _parse(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, int) else repr(float(value))
