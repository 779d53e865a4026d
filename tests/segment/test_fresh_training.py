"""Trainings on fresh composites: no composite twice, and an interruption changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from synthpipe.build import build
from synthpipe.cli.main import main
from synthpipe.cli.progress import LogReporter
from synthpipe.core.errors import ConfigError
from synthpipe.curated import CuratedSet, begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.segment.baselines import bounds
from synthpipe.segment.batches import Steps, batches
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.masks import masked_images
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import Composites
from synthpipe.segment.training import train
from synthpipe.segment.training_records import TrainingData
from tests.build.test_virtual import virtual_run
from tests.conftest import ROOT, once, pipeline
from tests.segment.conftest import CPU, DataSet, settings
from tests.segment.test_training import rows, run, same_weights

__all__ = ["virtual_run"]


@pytest.fixture(scope="module")
def virtual(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> CuratedSet:
    """Twelve virtual Mosaics and twelve virtual Beziers."""
    small = ("canvas=32", "mosaic.tile=16", "filter.enabled=false", "curation.wanted=12", "store.shard=8")
    chosen = pipeline(*small, f"patches.root={data_set.root}", "store.pixels=virtual")
    made = once(
        tmp_path_factory, "fresh", lambda folder: build(chosen, folder, ClusterSettings(Local(0)), LogReporter())
    )
    return CuratedSet(made)


def steps_of(curated: CuratedSet, seed: int = 0, rank: int = 0, world: int = 1) -> Steps:
    source = Composites([curated, curated], [curated.fresh(seed)] * 2)
    return Steps(settings(composites=6, real=0, seed=seed, fresh="unfiltered"), source, None, rank, world)


def test_steps_show_no_composite_twice(virtual: CuratedSet) -> None:
    """Neither in two passes, nor in two sets, nor with another seed; and no composite of the set."""
    steps = [steps_of(virtual, seed)[step] for seed in (0, 1) for step in range(20)]
    images = [image.numpy().tobytes() for step in steps for image in step["images"]]
    stored = [image.transpose(2, 0, 1).tobytes() for image in virtual.read(range(24))[0]]
    assert len({*images, *stored}) == 2 * 120 + 24
    for step in steps:
        shown = torch.stack([(step["masks"] == number).any((1, 2)) for number in range(3)], 1)
        assert torch.equal(step["labels"], shown.to(torch.uint8))


def test_readers_and_devices_get_the_same_fresh_steps(virtual: CuratedSet) -> None:
    whole = [steps_of(virtual)[step] for step in range(3, 6)]
    for found, expected in zip(batches(steps_of(virtual), 3, 6, 2, pin_memory=False), whole, strict=True):
        assert torch.equal(found["images"], expected["images"]) and torch.equal(found["masks"], expected["masks"])
    for rank in (0, 1):
        share = steps_of(virtual, rank=rank, world=2)[4]
        assert torch.equal(share["images"], whole[1]["images"][rank::2])


def command(data_set: DataSet, virtual: CuratedSet, directory: Path, *more: str) -> list[str]:
    file = directory.with_suffix(".yaml")
    chosen = settings(epochs=2, steps_per_epoch=None, save_steps=1, real=0)
    file.write_text(yaml.safe_dump(chosen.dump()), encoding="utf-8")
    return [
        *(sys.executable, "-m", "synthpipe", "train", str(virtual.path), "--val", str(data_set.validation)),
        *("--config", str(file), "-o", str(directory), "--device", "cpu", "--fresh", *more),
    ]


def test_a_stopped_training_on_fresh_composites_goes_on_as_if_it_had_not_been(
    data_set: DataSet, virtual: CuratedSet, tmp_path: Path
) -> None:
    chosen = settings(real=0, seed=5, fresh="unfiltered", steps_per_epoch=None)

    def work(folder: Path, stop: int) -> None:
        source, images = Composites([virtual], [virtual.fresh(5)]), masked_images(data_set.validation)
        data = TrainingData(virtual.description, source, None, images, {"curated 1": virtual.digest})
        asked = iter(range(1, 100))
        train(chosen, data, folder, CPU, LogReporter(), lambda: next(asked) == stop)

    work(tmp_path / "through", 0)
    for stop in (2, 5, 0):
        work(tmp_path / "run", stop)
    assert rows(tmp_path / "run") == rows(tmp_path / "through") and len(rows(tmp_path / "run")) == 12
    assert same_weights(tmp_path / "run" / "last.ckpt", tmp_path / "through" / "last.ckpt")


@pytest.mark.slow
def test_a_killed_training_on_fresh_composites_gives_the_same_weights(
    data_set: DataSet, virtual: CuratedSet, tmp_path: Path
) -> None:
    """Killed in the middle of an epoch, and resumed with two reading processes."""
    through = run(command(data_set, virtual, tmp_path / "through"))
    assert through.returncode == 0, through.stderr
    directory = tmp_path / "run"
    process = subprocess.Popen(command(data_set, virtual, directory), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (directory / "steps.csv").exists() or len(rows(directory)) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = run(command(data_set, virtual, directory, "--readers", "2"))
    assert again.returncode == 0, again.stderr
    assert rows(directory) == rows(tmp_path / "through") and len(rows(directory)) == 12
    assert same_weights(directory / "last.ckpt", tmp_path / "through" / "last.ckpt")
    fixed = [each for each in command(data_set, virtual, directory) if each != "--fresh"]
    refused = run(fixed)
    assert refused.returncode == 1 and 'fresh: "unfiltered" -> null' in refused.stderr


@pytest.mark.slow
def test_two_devices_train_on_different_fresh_composites(
    data_set: DataSet, virtual: CuratedSet, tmp_path: Path
) -> None:
    found = run(command(data_set, virtual, tmp_path / "run", "--device", "cpu,cpu", "--set", "epochs=1"))
    assert found.returncode == 0, found.stderr
    assert len(rows(tmp_path / "run")) == 6


def test_bounds_show_no_fresh_composites(data_set: DataSet, virtual: CuratedSet) -> None:
    source, images = Composites([virtual]), masked_images(data_set.validation)
    found = bounds(settings(fresh="unfiltered"), virtual.description, source, source, images, images, "")
    assert {name: chosen.fresh for name, (chosen, _) in found.items()} == {"labels": None, "masks": None}


def test_settings_without_fresh_composites_are_dumped_as_before() -> None:
    assert "fresh" not in TrainSettings().dump()
    assert settings(fresh="unfiltered").dump()["fresh"] == "unfiltered"


def test_a_dry_run_tells_of_fresh_composites(data_set: DataSet, virtual: CuratedSet, tmp_path: Path) -> None:
    arguments = command(data_set, virtual, tmp_path / "run", "--dry-run")[3:]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert (
        "on passes of 24 fresh composites of 32 x 32 pixels" in result.output and "fresh: unfiltered" in result.output
    )


def test_filtered_composites_train_and_their_filters_belong_to_the_training(
    data_set: DataSet, virtual_run: Path, tmp_path: Path
) -> None:
    folder, config = tmp_path / "run", tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(settings(epochs=1, steps_per_epoch=1, real=0, fresh="filtered").dump()))
    arguments = ["train", virtual_run, "--val", data_set.validation, "--config", config, "-o", folder]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    found = Checkpoint.load(folder / "last.ckpt")
    assert {"mosaic filter 1", "bezier filter 1"} <= set(found.sources) and found.settings.fresh == "filtered"


def test_sets_without_donors_are_refused(data_set: DataSet, virtual: CuratedSet, tmp_path: Path) -> None:
    stored = CliRunner().invoke(main, command(data_set, CuratedSet(data_set.curated), tmp_path / "run")[3:])
    assert stored.exit_code == 1 and "its pixels are stored, so it has no donors to render others from" in stored.output
    path, patches = tmp_path / "pseudo.zarr", data_set.catalog().patches[:8]
    for shard, part in begin_pseudo_labelled(path, virtual.description, {}, patches).items():
        images, masks = np.zeros((len(part), 32, 32, 3), np.uint8), np.zeros((len(part), 32, 32), np.uint8)
        write_pseudo_labelled(path, shard, [patches[index] for index in part], images, masks)
    with pytest.raises(ConfigError, match="its samples are real patches with predicted masks, expected composites"):
        CuratedSet(path).to_torch(fresh=True)
