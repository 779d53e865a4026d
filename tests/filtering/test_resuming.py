"""Filter trainings that are interrupted come to the same end."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synthpipe.core.errors import StoreError
from synthpipe.filtering.epoch import steps_per_epoch
from synthpipe.filtering.training import EpochMetrics, FilterReport, train_filter
from synthpipe.pretrained.tensors import pack, unpack
from tests.filtering.test_filter import data, settings

KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
from tests.filtering.test_filter import data, settings
from synthpipe.filtering.training import train_filter

def slow(epoch, views=data().real_train):
    if epoch == 2:
        print("in the third epoch", flush=True)
        time.sleep(60)
    return views(epoch)

train_filter(settings(), "mosaic", replace(data(), real_train=slow), 5, Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[FilterReport, bytes]:
    """The report and the weights of a training that nobody interrupted."""
    directory = tmp_path_factory.mktemp("filter")
    report = train_filter(settings(), "mosaic", data(), 5, directory)
    assert sorted(path.name for path in directory.iterdir()) == ["mosaic.json", "mosaic.safetensors"]
    return report, (directory / "mosaic.safetensors").read_bytes()


@pytest.fixture(scope="module")
def after_one_epoch(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The stored state of a training that was interrupted after its first epoch."""
    directory = tmp_path_factory.mktemp("stopped")
    stop_after(1, directory)
    return (directory / "mosaic.training").read_bytes()


def stop_after(epochs: int, directory: Path, **changes: object) -> None:
    """Train, and be interrupted when some epochs are done."""

    def stop(metrics: EpochMetrics) -> None:
        if metrics.epoch == epochs - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_filter(settings(**changes), "mosaic", data(), 5, directory, stop)


def finish(directory: Path) -> tuple[FilterReport, list[int]]:
    """Train to the end; return the report and the epochs that were told."""
    told: list[int] = []
    return train_filter(settings(), "mosaic", data(), 5, directory, lambda metrics: told.append(metrics.epoch)), told


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_training_goes_on_after_any_epoch(whole: tuple[FilterReport, bytes], tmp_path: Path, epochs: int) -> None:
    stop_after(epochs, tmp_path)
    report, told = finish(tmp_path)
    assert told == [0, 1, 2]
    assert replace(report, seconds=0) == replace(whole[0], seconds=0)
    assert (tmp_path / "mosaic.safetensors").read_bytes() == whole[1]
    assert not (tmp_path / "mosaic.training").exists()


@pytest.mark.faults
def test_a_training_that_was_killed_in_an_epoch_goes_on(whole: tuple[FilterReport, bytes], tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "in the third epoch\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    written = (tmp_path / "mosaic.training").stat().st_mtime
    assert written < time.time() and not (tmp_path / "mosaic.safetensors").exists()
    report, _ = finish(tmp_path)
    assert replace(report, seconds=0) == replace(whole[0], seconds=0)
    assert (tmp_path / "mosaic.safetensors").read_bytes() == whole[1]


def refused(whole: tuple[FilterReport, bytes], directory: Path) -> list[str]:
    """Train to the end, which must be that of a training that nobody interrupted; return the notes."""
    notes: list[str] = []
    report = train_filter(settings(), "mosaic", data(), 5, directory, on_note=notes.append)
    assert replace(report, seconds=0) == replace(whole[0], seconds=0)
    assert (directory / "mosaic.safetensors").read_bytes() == whole[1]
    return notes


def test_a_state_of_other_settings_is_not_used(whole: tuple[FilterReport, bytes], tmp_path: Path) -> None:
    stop_after(2, tmp_path, learning_rate=0.01)
    assert refused(whole, tmp_path) == []


def lose_a_block(state: Path) -> None:
    content = bytearray(state.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    state.write_bytes(content)


def forge(part: str, value: float) -> Callable[[Path], None]:
    def change(state: Path) -> None:
        text, tensors = unpack(state.read_bytes())
        name = next(name for name in sorted(tensors) if name.startswith(part) and tensors[name].numel())
        tensors[name].fill_(value)
        state.write_bytes(pack(json.loads(text), tensors))

    return change


def test_a_pipe_in_place_of_a_state_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mosaic.training")
    with pytest.raises(
        StoreError, match=r"mosaic\.training: is a named pipe, expected a file or a new name; remove it"
    ):
        stop_after(1, tmp_path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda state: state.write_bytes(state.read_bytes()[:100_000]), "its header is not one"),
        (lambda state: state.write_bytes(b"nonsense"), "its header is not one"),
        (lose_a_block, "its checksum is wrong"),
        (forge("module/", math.nan), "module/.* has values that are not finite"),
        (forge("optimizer/0/exp_avg_sq", -1), "optimizer/0/exp_avg_sq has values below 0"),
        (forge("random/", 255), ""),
    ],
)
def test_a_training_whose_state_is_damaged_begins_anew_with_a_note(
    whole: tuple[FilterReport, bytes],
    after_one_epoch: bytes,
    tmp_path: Path,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    (tmp_path / "mosaic.training").write_bytes(after_one_epoch)
    damage(tmp_path / "mosaic.training")
    (note,) = refused(whole, tmp_path)
    path = re.escape(str(tmp_path / "mosaic.training"))
    assert re.fullmatch(
        rf"note: {path}: is damaged \(.*{reason}.*\), so the training of this filter starts again", note
    )


def test_every_step_is_reported_once_although_the_training_is_interrupted(tmp_path: Path) -> None:
    stop_after(2, tmp_path)
    steps: list[int] = []
    report = train_filter(settings(), "mosaic", data(), 5, tmp_path, on_steps=steps.append)
    in_epoch = steps_per_epoch(report.synthetic_train, report.real_train, settings().batch)
    assert steps[0] == 2 * in_epoch and set(steps[1:]) == {1}
    assert sum(steps) == in_epoch * settings().epochs["mosaic"]
