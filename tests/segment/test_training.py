from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from synthpipe.cli.progress import LogReporter
from synthpipe.config.settings_file import load_settings
from synthpipe.core.errors import CatalogError, ConfigError, StaleRunError, StoreError
from synthpipe.curated import CuratedSet
from synthpipe.files.folders import LOCK
from synthpipe.files.lock import held
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.devices import Hardware
from synthpipe.segment.evaluation import Predictor, evaluate
from synthpipe.segment.masks import masked_images
from synthpipe.segment.outputs import TRAINING
from synthpipe.segment.settings import OptimizerSection, TrainSettings, WindowSection, learning_rate
from synthpipe.segment.sources import Composites, MaskedCrops, RealPatches
from synthpipe.segment.training import train
from synthpipe.segment.training_records import TrainingData
from tests.conftest import ROOT
from tests.segment.conftest import CPU, DataSet, settings

TIMES = ("seconds", "waiting")


def rows(directory: Path) -> list[dict[str, str]]:
    """All of ``steps.csv`` but the times."""
    with (directory / "steps.csv").open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (Checkpoint.load(path).weights for path in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_each_epoch_is_reported_and_the_same_training_gives_the_same_bits(
    trained: Path, data_set: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter())
    told = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines() if " epoch " in line]
    with (tmp_path / "epochs.csv").open(encoding="utf-8", newline="") as file:
        found = [
            f"{float(row['train_loss']):.4f}, validation mIoU {float(row['val_miou']):.4f}"
            for row in csv.DictReader(file)
        ]
    assert [line.removesuffix(", the best so far") for line in told] == [
        f"epoch {number}: loss {values}" for number, values in enumerate(found)
    ]
    assert told[0].endswith(", the best so far")
    assert rows(tmp_path) == rows(trained) and same_weights(tmp_path / "last.ckpt", trained / "last.ckpt")


def test_a_training_leaves_checkpoints_curves_and_a_report(trained: Path, data_set: DataSet) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "best.ckpt", "last.ckpt", "settings.yaml", "steps.csv", "epochs.csv", "tensorboard", "report.json",
    }  # fmt: skip
    assert TrainSettings.model_validate(yaml.safe_load((trained / "settings.yaml").read_text())) == settings()
    with (trained / "epochs.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))
    best = max(epochs, key=lambda row: float(row["val_miou"]))
    checkpoint = Checkpoint.load(trained / "best.ckpt")
    assert checkpoint.progress["best_epoch"] == int(best["epoch"]) and checkpoint.optimizer is None
    assert checkpoint.progress["best_miou"] == float(best["val_miou"])
    assert checkpoint.description == data_set.description and not checkpoint.by_cam
    assert set(checkpoint.sources) == {"curated 1", "real patches"}
    report = json.loads((trained / "report.json").read_text())
    assert report["steps"] == 6 and report["images_a_second"] > 0 and 0 <= report["waiting_share"] < 1
    assert [row["step"] for row in rows(trained)] == ["0", "1", "2", "3", "4", "5"]
    assert any((trained / "tensorboard").iterdir())


def test_tensorboard_shows_curves_pictures_and_settings(trained: Path) -> None:
    board = EventAccumulator(str(trained / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = board.Tags()
    assert {
        *("training step/loss", "training step/Dice loss of composites", "training step/learning rate"),
        *("training epoch/loss", "validation/mIoU", "validation IoU/tumour", "speed/seconds a step"),
    } <= set(tags["scalars"])
    assert len(board.Scalars("training step/loss")) == 6
    composites, validation = "composites: image, mask, prediction", "validation: image, truth, prediction"
    assert sorted(tags["images"]) == [*(f"{composites}/{n}" for n in (1, 2, 3)), f"{validation}/1", f"{validation}/2"]
    for tag in tags["images"]:
        assert [event.step for event in board.Images(tag)] == [2, 5]
        picture = board.Images(tag)[0]
        assert picture.height <= 192 and 3 * 32 < picture.width <= 3 * 192 + 8
    (text,) = board.Tensors("settings/text_summary")
    assert "learning_rate: " in text.tensor_proto.string_val[0].decode()


def test_without_tensorboard_a_training_has_the_same_numbers(
    trained: Path, data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    assert train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter()).finished
    assert not (tmp_path / "tensorboard").exists() and rows(tmp_path) == rows(trained)
    assert same_weights(tmp_path / "last.ckpt", trained / "last.ckpt")


def test_a_precision_needs_no_quotes_that_a_shell_takes_off() -> None:
    assert load_settings(TrainSettings, None, ("precision=32",)).precision == "32"


def test_keys_that_are_merged_in_may_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("optimizer: {<<: {learning_rate: 0.1, weight_decay: 0.2}, weight_decay: 0.3}\n")
    found = load_settings(TrainSettings, file, ()).optimizer
    assert (found.learning_rate, found.weight_decay) == (0.1, 0.3)


@pytest.mark.parametrize("stop", [3, 4])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    trained: Path, data_set: DataSet, tmp_path: Path, stop: int
) -> None:
    """In the middle of an epoch or at its end: the same losses and metrics, and the same weights, to the bit."""
    asked = iter(range(1, 100))
    outcome = train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter(), lambda: next(asked) == stop)
    assert not outcome.finished and outcome.step == stop
    train(settings(save_steps=2), data_set.training_data(), tmp_path, CPU, LogReporter())  # which changes no number
    assert rows(tmp_path) == rows(trained)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("validation/mIoU")] == [2, 5], "what was told before is not purged"
    assert (tmp_path / "epochs.csv").read_text() == (trained / "epochs.csv").read_text()
    assert same_weights(tmp_path / "last.ckpt", trained / "last.ckpt")
    assert same_weights(tmp_path / "best.ckpt", trained / "best.ckpt")


def test_a_checkpoint_that_cannot_be_resumed_is_refused(trained: Path, data_set: DataSet, tmp_path: Path) -> None:
    shutil.copy(trained / "best.ckpt", tmp_path / "last.ckpt")
    with pytest.raises(StoreError, match=r"last\.ckpt: cannot be resumed: .* no optimizer state; expected"):
        train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter())
    checkpoint = Checkpoint.load(trained / "last.ckpt")
    replace(checkpoint, progress={**checkpoint.progress, "step": 7}).save(tmp_path / "last.ckpt")
    with pytest.raises(StoreError, match=r"its step is 7, .*; expected a step from 1 to 6"):
        train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter())
    content = bytearray((trained / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(StoreError, match=r"last\.ckpt: is damaged, or is not a checkpoint .*: its checksum"):
        train(settings(), data_set.training_data(), tmp_path, CPU, LogReporter())
    assert not (tmp_path / "best.ckpt").exists() and (tmp_path / "last.ckpt").read_bytes() == content


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")
def test_a_stopped_training_goes_on_on_a_gpu(data_set: DataSet, tmp_path: Path) -> None:
    gpu = Hardware("cuda")
    train(settings(), data_set.training_data(), tmp_path, gpu, LogReporter(), lambda: True)
    assert train(settings(), data_set.training_data(), tmp_path, gpu, LogReporter()).finished


def command(data_set: DataSet, directory: Path, *more: str) -> list[str]:
    chosen = settings(epochs=3, steps_per_epoch=4, save_steps=1)
    file = directory.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(chosen.dump()), encoding="utf-8")
    return [
        sys.executable, "-m", "synthpipe", "train", str(data_set.curated), "--real", str(data_set.root),
        "--val", str(data_set.validation), "--config", str(file),
        "-o", str(directory), "--device", "cpu", *more,
    ]  # fmt: skip


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_losses(data_set: DataSet, tmp_path: Path) -> None:
    """Killed without warning once some steps are told of, then Ctrl-C, then a scheduler's time is up, then to the end:
    as one that ran through.
    """
    through = run(command(data_set, tmp_path / "through"))
    assert through.returncode == 0, through.stderr
    directory = tmp_path / "run"
    for kind, wanted in ((signal.SIGKILL, 3), (signal.SIGINT, 6), (signal.SIGTERM, 9)):
        # a scheduler signals every process of a job, those that prepare batches too
        send, workers = (os.killpg, "2") if kind == signal.SIGTERM else (os.kill, "0")
        process = subprocess.Popen(
            command(data_set, directory, "--readers", workers), cwd=ROOT, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (directory / "steps.csv").exists() or len(rows(directory)) < wanted:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        send(process.pid, kind)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode != 0
        if kind != signal.SIGKILL:
            assert "run the command again to resume" in errors and "Traceback" not in errors
    again = run(command(data_set, directory))
    assert again.returncode == 0, again.stderr
    assert rows(directory) == rows(tmp_path / "through")
    assert same_weights(directory / "last.ckpt", tmp_path / "through" / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "job"),
    [
        ("tu-test_resnet", {}),
        # has a head that nothing asks; in a job whose single task starts the other processes
        (
            "efficientnet-b0",
            {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"},
        ),
    ],
)
def test_two_devices_train_one_network(
    data_set: DataSet, tmp_path: Path, encoder: str, job: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, each with half of every batch, whose gradients are averaged."""
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    found = run(command(data_set, tmp_path / "run", "--device", "cpu,cpu", "--set", f"network.encoder={encoder}"))
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("best validation mIoU") == 1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["devices"] == 2 and len(rows(tmp_path / "run")) == 12
    canvas = WindowSection(size=32, stride=32)
    best = Predictor.load(tmp_path / "run" / "best.ckpt", canvas, torch.device("cpu"))
    result = evaluate(best, masked_images(data_set.validation), tmp_path / "result", LogReporter(), pictured=0)
    assert report["best_miou"] == result["miou"], "of the weights that were saved, not of each device's own"


@pytest.mark.slow
def test_devices_stop_together_when_one_is_asked_to(data_set: DataSet, tmp_path: Path) -> None:
    """As a scheduler does that signals the first process only."""
    asked = command(data_set, tmp_path / "run", "--device", "cpu,cpu", "--set", "epochs=100")
    process = subprocess.Popen(asked, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "steps.csv").exists() or len(rows(tmp_path / "run")) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in errors
    assert "of 400; run the command again to resume" in errors
    assert Checkpoint.load(tmp_path / "run" / "last.ckpt").progress["step"] == len(rows(tmp_path / "run")) < 400


def test_a_folder_is_trained_into_by_one_at_a_time(data_set: DataSet, tmp_path: Path) -> None:
    with (
        held(tmp_path / "run", TRAINING),
        pytest.raises(StaleRunError, match=rf"run: is being written by process {os.getpid()} on "),
    ):
        train(settings(), data_set.training_data(), tmp_path / "run", CPU, LogReporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_is_trained_into_is_refused_before_a_second_device_starts(
    data_set: DataSet, tmp_path: Path
) -> None:
    with held(tmp_path / "run", TRAINING):
        found = run(command(data_set, tmp_path / "run", "--device", "cpu,cpu"))
    assert found.returncode != 0 and "Traceback" not in found.stderr
    assert f"run: is being written by process {os.getpid()} on " in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best.ckpt", "tensorboard"])
def test_devices_fail_together_where_the_first_cannot_write(data_set: DataSet, tmp_path: Path, name: str) -> None:
    blocked = tmp_path / "run" / name
    blocked.parent.mkdir()
    (blocked.parent / LOCK).write_text(json.dumps({"of": TRAINING.name}))  # as a first attempt leaves it
    blocked.mkdir() if name == "best.ckpt" else blocked.touch()
    found = run(command(data_set, tmp_path / "run", "--device", "cpu,cpu"))
    assert found.returncode == 1 and f"{blocked}: " in found.stderr
    assert "Traceback" not in found.stderr and "fault of synthpipe" not in found.stderr


@pytest.mark.slow
def test_more_devices_than_images_are_refused(data_set: DataSet, tmp_path: Path) -> None:
    found = run(command(data_set, tmp_path / "run", "--device", "cpu,cpu", "--set", "real=1"))
    assert found.returncode == 1 and "real: got 1 per step for 2 devices" in found.stderr


def test_a_folder_belongs_to_one_training(trained: Path, data_set: DataSet) -> None:
    data = data_set.training_data()
    with pytest.raises(StaleRunError, match=r"has another training.*\n  composites: 4 -> 2"):
        train(settings(composites=2), data, trained, CPU, LogReporter())
    other = TrainingData(data.description, data.composites, data.real, data.validation, {"curated 1": "else"})
    with pytest.raises(StaleRunError, match=r"data\.curated 1: .* -> \"else\""):
        train(settings(), other, trained, CPU, LogReporter())
    other = replace(data, description=replace(data.description, size=(64, 64), fingerprint="f"))
    with pytest.raises(StaleRunError, match=r"\n  fingerprint: .* -> \"f\"\n  size: \[32, 32\] -> \[64, 64\]"):
        train(settings(), other, trained, CPU, LogReporter())


def test_a_training_from_a_file_of_weights_resumes_with_the_same_and_its_checkpoint_needs_no_file(
    data_set: DataSet, tmp_path: Path
) -> None:
    def start(name: str, seed: int) -> TrainSettings:
        torch.manual_seed(seed)
        content = io.BytesIO()  # a file's name would be part of its bytes
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), content)
        (tmp_path / name).write_bytes(content.getvalue())
        network = {"architecture": "Unet", "encoder": "tu-tf_efficientnet_lite0", "weights": str(tmp_path / name)}
        return settings(network=network, composites=2, real=2, epochs=1, steps_per_epoch=2)

    data = data_set.training_data()
    asked = iter([True])
    assert not train(start("a.pth", 1), data, tmp_path / "run", CPU, LogReporter(), lambda: next(asked)).finished
    with pytest.raises(
        StaleRunError, match=r'has another training; .*\n  data\.encoder weights: "[0-9a-f]{64}" -> "\w*"$'
    ):
        train(start("b.pth", 2), data, tmp_path / "run", CPU, LogReporter())
    assert train(start("moved.pth", 1), data, tmp_path / "run", CPU, LogReporter()).finished
    for path in tmp_path.glob("*.pth"):
        path.unlink()
    found = Checkpoint.load(tmp_path / "run" / "last.ckpt")
    assert found.settings.network.mean == found.settings.network.std == (0.5, 0.5, 0.5)
    assert len(found.sources["encoder weights"]) == 64
    with torch.inference_mode():
        found.network(torch.device("cpu"))(torch.zeros(1, 3, 32, 32))


def test_a_training_of_nothing_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    """Consistency is of real patches, Dice of composites."""
    data = data_set.training_data()
    without_real, alone = replace(data, real=None), replace(data, composites=None)
    for loss, chosen in (({"dice": 0, "labels": 0}, without_real), ({"labels": 0, "consistency": 0}, alone)):
        with pytest.raises(ConfigError, match="so no loss applies to the given"):
            train(settings(loss=loss), chosen, tmp_path, CPU, LogReporter())


def test_a_training_can_be_made_longer(data_set: DataSet, tmp_path: Path) -> None:
    data = data_set.training_data()
    train(settings(epochs=1), data, tmp_path / "grown", CPU, LogReporter())
    train(settings(epochs=2), data, tmp_path / "grown", CPU, LogReporter())
    train(settings(epochs=2), data, tmp_path / "whole", CPU, LogReporter())
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    cosine = settings(epochs=3, optimizer={"schedule": "cosine", "learning_rate": 1e-3})
    with pytest.raises(StaleRunError, match="epochs: 2 -> 3"):
        train(cosine, data, tmp_path / "grown", CPU, LogReporter())


def test_labels_alone_train_the_cam(data_set: DataSet, tmp_path: Path) -> None:
    data = data_set.training_data()
    alone = TrainingData(data.description, None, data.real, data.validation, data.sources)
    train(settings(), alone, tmp_path, CPU, LogReporter())
    assert Checkpoint.load(tmp_path / "best.ckpt").by_cam
    assert {row["dice"] for row in rows(tmp_path)} == {"0.0"} and float(rows(tmp_path)[0]["labels"]) > 0


def test_true_masks_train_without_composites(data_set: DataSet, tmp_path: Path) -> None:
    data = data_set.training_data()
    crops = MaskedCrops(data.validation, data.description)
    train(
        settings(real=0), TrainingData(data.description, crops, None, data.validation, {}), tmp_path, CPU, LogReporter()
    )
    assert float(rows(tmp_path)[0]["dice"]) > 0 and float(rows(tmp_path)[0]["consistency"]) == 0


def test_a_loss_that_is_no_number_stops_the_training(data_set: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the loss of step \d is nan, expected a finite number; lower"):
        train(settings(optimizer={"learning_rate": 1000}), data_set.training_data(), tmp_path, CPU, LogReporter())
    assert not (tmp_path / "last.ckpt").exists() or Checkpoint.load(tmp_path / "last.ckpt").progress["step"] < 6


@pytest.mark.parametrize("device", ["cuda", "abacus", "cpu,cuda", "cuda:a"])
def test_devices_that_there_are_not_are_refused(data_set: DataSet, tmp_path: Path, device: str) -> None:
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=f"^--device {device}: "):
        train(settings(), data_set.training_data(), tmp_path, Hardware(device), LogReporter())


def test_a_network_that_cannot_take_the_canvas_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    network = {"architecture": "PAN", "encoder": "resnet18", "weights": None}
    with pytest.raises(ConfigError, match=r"PAN with resnet18 cannot process 8 images of 32 x 32"):
        train(settings(network=network), data_set.training_data(), tmp_path, CPU, LogReporter())


def test_a_share_that_cannot_be_normalised_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    data = replace(data_set.training_data(), real=None)
    network = {"architecture": "DeepLabV3Plus", "encoder": "resnet18", "weights": None}
    with pytest.raises(
        ConfigError, match=r"cannot process 1 images of 32 x 32 pixels per step and device: Expected more than 1"
    ):
        train(settings(network=network, composites=1, real=0), data, tmp_path, CPU, LogReporter())


def test_a_patch_that_is_gone_is_named_without_a_traceback(data_set: DataSet, tmp_path: Path) -> None:
    """A process that reads ahead finds it."""
    copy = tmp_path / "data"
    shutil.copytree(data_set.root / "1.training", copy / "1.training")
    catalog, data = DataSet(copy, data_set.curated).catalog(), data_set.training_data()
    real = RealPatches(catalog.patches, data.description)
    for path in (copy / "1.training").iterdir():
        path.unlink()
    with pytest.raises(CatalogError) as caught:
        train(settings(), replace(data, real=real), tmp_path / "run", Hardware("cpu", readers=1), LogReporter())
    assert str(caught.value).startswith(str(copy)) and "cannot be read" in str(caught.value)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_store_that_cannot_be_opened_is_named_without_a_traceback(data_set: DataSet, tmp_path: Path) -> None:
    shutil.copytree(data_set.curated, tmp_path / "curated.zarr")
    shard = tmp_path / "curated.zarr" / "image" / "c.0.0.0.0"
    shard.unlink()
    shard.mkdir()
    data = replace(data_set.training_data(), composites=Composites([CuratedSet(tmp_path / "curated.zarr")]))
    with pytest.raises(StoreError) as caught:
        train(settings(), data, tmp_path / "run", Hardware("cpu", readers=1), LogReporter())
    assert str(caught.value).startswith(f"{shard}: cannot be read: is a folder, expected a file")
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_learning_rates_follow_their_schedule() -> None:
    def rates(**changes: object) -> list[float]:
        section = OptimizerSection.model_validate({"learning_rate": 1.0} | changes)
        return [learning_rate(settings(optimizer=section), step, 10) for step in range(10)]

    assert rates() == [1.0] * 10
    cosine, poly = rates(schedule="cosine"), rates(schedule="poly")
    assert cosine[0] == poly[0] == 1 and cosine == sorted(cosine, reverse=True) and cosine[5] == pytest.approx(0.5)
    assert poly[5] == pytest.approx(0.5**0.9) and 0 < poly[9] < 0.2
    assert rates(warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1, 1]
