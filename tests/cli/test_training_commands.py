"""The commands of the segmentation stage, as a user gives them, one after the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from synthpipe.cli import main
from synthpipe.cli.main import ExplainingGroup
from synthpipe.segment.checkpoint import Checkpoint, file_digest
from tests.conftest import ROOT
from tests.imagenet import LITE0
from tests.segment.conftest import DataSet, data_set, settings

__all__ = ["data_set"]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Training takes signals over; a test gives them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def synthpipe(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(settings().dump()), encoding="utf-8")
    return path


def training(data_set: DataSet, config: Path, output: Path, *more: object) -> Result:
    return synthpipe(
        "train", data_set.curated.parent, "--real", data_set.root, "--val", data_set.validation, "--config", config,
        "-o", output, "--device", "cpu", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(data_set: DataSet, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    result = training(data_set, config, directory)
    assert result.exit_code == 0, result.output
    assert "trained 6 steps; best validation mIoU 0." in result.stdout and (directory / "curves.png").exists()
    return directory


def test_a_dry_run_says_what_would_be_trained(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    result = training(data_set, config, tmp_path / "run", "--set", "epochs=7", "--dry-run")
    assert result.exit_code == 0 and "epochs: 7" in result.stdout
    assert (
        "on 24 composites of 32 x 32 pixels and 40 real patches" in result.stdout
        and "tumour, stroma, normal" in result.stdout
    )
    assert not (tmp_path / "run").exists()
    alone = training(data_set, config, tmp_path / "run", "--set", "real=0", "--dry-run")
    assert f"note: real is 0, so the patches of {data_set.root} do not train the network" in alone.stderr


def test_a_dry_run_shows_the_normalisation_that_the_weights_of_a_file_expect(
    data_set: DataSet, config: Path, tmp_path: Path
) -> None:
    changes = ("network.encoder=tu-tf_efficientnet_lite0", f"network.weights={LITE0}", "network.architecture=Unet")
    result = training(
        data_set, config, tmp_path / "run", *(part for each in changes for part in ("--set", each)), "--dry-run"
    )
    assert result.exit_code == 0 and result.stdout.count("  - 0.5\n") == 6


def test_a_finished_training_is_not_done_again(data_set: DataSet, config: Path, trained: Path) -> None:
    before = (trained / "last.ckpt").stat().st_mtime_ns
    result = training(data_set, config, trained)
    assert result.exit_code == 0 and "trained 6 steps" in result.stdout
    constant = json.loads((trained / "report.json").read_text())["constant"]
    assert f" ({constant['miou']:.4f} if every pixel were {constant['class']})" in result.stdout
    assert (trained / "last.ckpt").stat().st_mtime_ns == before


def test_evaluate_prints_a_table_and_draws(data_set: DataSet, trained: Path, tmp_path: Path) -> None:
    result = synthpipe(
        "evaluate", trained, "--data", data_set.validation, "-o", tmp_path,  # the folder stands for its best.ckpt
        "--window", "stride=32", "--window", "flips=false", "--window", "scales=[1, 1.5]", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["class", "iou", "dice", "precision", "recall", "boundary_f"]
    assert [line.split()[0] for line in lines[1:5]] == ["tumour", "stroma", "normal", "mean"]
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found["windows"]["scales"] == [1.0, 1.5] and found["windows"]["stride"] == [32, 32]
    assert lines[5].startswith(f"mIoU {found['miou']:.4f} (")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2 and (tmp_path / "curves.png").exists()
    wrong = synthpipe(
        "evaluate", trained / "best.ckpt", "--data", data_set.validation, "-o", tmp_path, "--window", "a=1"
    )
    assert wrong.exit_code == 1 and "--window: 1 mistake" in wrong.stderr


def with_masks_of(source: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copy images with masks; the masks' class indices are changed, and have no colours."""
    shutil.copytree(source / "img", target / "img")
    (target / "mask").mkdir()
    for path in (source / "mask").iterdir():
        with PillowImage.open(path) as mask:
            PillowImage.fromarray(change(np.asarray(mask))).save(target / "mask" / path.name)
    return target


def test_every_command_says_how_it_takes_masks(data_set: DataSet, config: Path, trained: Path, tmp_path: Path) -> None:
    """Masks that count from 1, with 0 for unlabelled pixels."""
    counted = with_masks_of(data_set.validation, tmp_path / "val", lambda mask: (mask + 1) % 4)
    evaluation = ("evaluate", trained / "best.ckpt", "--device", "cpu", "-o", tmp_path / "out")
    commands = (
        (*evaluation, "--data", counted),
        ("train", data_set.curated, "--set", "real=0", "--val", counted, "--config", config, "-o", tmp_path / "run"),
        (
            *("baseline", data_set.curated, "--real", data_set.root, "--val", counted, "--config", config),
            *("--data", data_set.root / "3.testing", "-o", tmp_path / "bounds"),
        ),
    )
    for command in commands:
        result = synthpipe(*command, "--mask-map", "0=ignore,1=tumour,2=stroma,4=normal")
        assert result.exit_code == 1 and "has values that --mask-map does not name: " in result.stderr
        assert "Traceback" not in result.stderr
        wrong = synthpipe(*command, "--mask-map", "1=tumor")
        assert (
            wrong.exit_code == 1
            and "--mask-map: '1=tumor' does not name a class; expected one of tumour" in wrong.stderr
        )
    mapped = synthpipe(*evaluation, "--data", counted, "--mask-map", "0=ignore,1=tumour,2=stroma,3=normal")
    assert mapped.exit_code == 0, mapped.output
    found = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert found["mask_map"] == {"0": "ignore", "1": "tumour", "2": "stroma", "3": "normal"}
    plain = synthpipe(*evaluation, "--data", data_set.validation)
    assert "no colours confirm these meanings" not in plain.stderr and "= ignored (" in plain.stderr
    assert "the same images chose the best weights of this network" in plain.stderr
    expected = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert found["confusion"] == expected["confusion"] and found["measured_on"] != expected["measured_on"]
    assert "mask_map" not in expected
    dry = synthpipe(*commands[1], "--dry-run")
    assert dry.exit_code == 0 and "0 = tumour (" in dry.stderr and "give the right ones with --mask-map" in dry.stderr


def test_masks_of_0_and_255_choose_no_weights(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    binary = with_masks_of(data_set.validation, tmp_path / "val", lambda mask: np.where(mask == 0, 255, 0).astype("u1"))
    result = training(data_set, config, tmp_path / "run", "--val", binary)
    assert result.exit_code == 1 and "masks contain only 0 and 255" in result.stderr
    assert not (tmp_path / "run").exists()
    mapped = training(
        data_set, config, tmp_path / "run", "--val", binary, "--mask-map", "255=tumour,0=stroma", "--dry-run"
    )
    assert mapped.exit_code == 0 and "shows normal; mean scores and the choice of the best weights" in mapped.stderr


def test_predictions_do_not_replace_images(data_set: DataSet, trained: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(next((data_set.validation / "img").iterdir()).read_bytes())
    before = image.read_bytes()
    result = synthpipe("predict", trained / "best.ckpt", image, "-o", tmp_path / ".." / tmp_path.name)
    assert result.exit_code == 1 and f"a.png would replace {image}; choose another folder" in result.stderr
    assert image.read_bytes() == before


@pytest.mark.parametrize("command", ["train", "baseline", "evaluate", "predict", "pseudo-label"])
def test_nothing_is_written_into_foreign_folders(
    data_set: DataSet, config: Path, trained: Path, tmp_path: Path, command: str
) -> None:
    """Such as one in which another program keeps its own last.ckpt and settings.yaml."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("settings.yaml", "report.json", "metrics.csv", "image.png", *(["last.ckpt"] * (command == "train"))):
        (home / name).write_text(f"{name}: years of work")
    before = {path: path.read_bytes() for path in home.iterdir()}
    settings = ("--real", data_set.root, "--val", data_set.validation, "--config", config, "--device", "cpu")
    image = next((data_set.validation / "img").iterdir())
    arguments: dict[str, tuple[object, ...]] = {
        "train": (data_set.curated, *settings),
        "baseline": (data_set.curated, *settings, "--data", data_set.validation),
        "evaluate": (trained / "best.ckpt", "--data", data_set.validation),
        "predict": (trained / "best.ckpt", image),
        "pseudo-label": (trained / "best.ckpt", "--real", data_set.root),
    }
    result = synthpipe(command, *arguments[command], "-o", home)
    expected = (
        "last.ckpt: is damaged, or is not a checkpoint"
        if command == "train"
        else f"{home}: holds 'image.png', 'metrics.csv', "
    )
    assert result.exit_code == 1 and expected in result.stderr and "fault of synthpipe" not in result.stderr
    assert {path: path.read_bytes() for path in home.iterdir()} == before


@pytest.mark.parametrize("name", ["tensorboard", "best.ckpt", "last.ckpt.partial"])
def test_links_in_a_training_are_not_followed(
    data_set: DataSet, config: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis").write_text("years of work")
    folder = Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(name)))
    (folder / name).symlink_to(home if name == "tensorboard" else home / "thesis")
    result = training(data_set, config, folder, "--set", "epochs=4", "--set", "optimizer.schedule=constant")
    if name != "last.ckpt.partial":  # which is no name of ours any more
        assert result.exit_code == 1 and f"{folder / name}: is a link" in result.stderr
    assert [path.name for path in home.iterdir()] == ["thesis"] and (home / "thesis").read_text() == "years of work"


def test_a_record_of_pictures_removes_no_other_file(data_set: DataSet, trained: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.png"
    thesis.write_text("years of work")
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    record = tmp_path / "out" / "pictures" / "drawn.json"
    record.write_text(json.dumps(["../../thesis.png", str(thesis), 3, ["a"]]))
    arguments = (trained / "best.ckpt", "--data", data_set.validation, "-o", tmp_path / "out", "--device", "cpu")
    result = synthpipe("evaluate", *arguments, "--replicates", 1)
    assert result.exit_code == 0, result.output
    assert thesis.read_text() == "years of work" and "thesis" not in record.read_text()


@pytest.mark.parametrize("palette", [False, True])
def test_masks_that_cannot_choose_weights_are_refused_before_training(
    data_set: DataSet, config: Path, tmp_path: Path, palette: bool
) -> None:
    for kind in ("img", "mask"):
        shutil.copytree(data_set.validation / kind, tmp_path / "val" / kind)
    path = max((tmp_path / "val" / "mask").iterdir())
    with PillowImage.open(path) as mask:
        other = PillowImage.fromarray(np.full(mask.size[::-1], 0 if palette else 9, np.uint8))
    if palette:
        other.putpalette([9, 9, 200])
    other.save(path)
    result = training(data_set, config, tmp_path / "run", "--val", tmp_path / "val", "--dry-run")
    assert (
        result.exit_code == 1
        and ("classes or their order differ" if palette else f"{path}: has unknown values: 9") in result.stderr
    )
    if palette:
        again = training(data_set, config, tmp_path / "run", "--val", tmp_path / "val", "--dry-run", "--any-palette")
        assert again.exit_code == 0


def test_predict_writes_masks_overlays_and_probabilities(data_set: DataSet, trained: Path, tmp_path: Path) -> None:
    images = sorted((data_set.validation / "img").iterdir())
    result = synthpipe("predict", trained / "best.ckpt", *images, "-o", tmp_path, "--probabilities", "--device", "cpu")
    assert result.exit_code == 0, result.output
    for path in images:
        with PillowImage.open(path) as image, PillowImage.open(tmp_path / path.name) as mask:
            assert mask.size == image.size and mask.mode == "P"
            palette = mask.getpalette()
            assert palette and palette[:3] == [0, 64, 128]
            seen = np.asarray(mask) < 3  # the rest is glass
            probabilities = np.load(tmp_path / f"{path.stem}-probabilities.npy")
            assert seen.any() and np.mean((probabilities.argmax(0) == np.asarray(mask))[seen]) > 0.99  # float16: ties
        assert (tmp_path / f"{path.stem}-overlay.png").exists()
    said = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))["masks"]
    assert {name: each["sha256"] for name, each in said.items()} == {path.name: file_digest(path) for path in images}
    assert {each["checkpoint"] for each in said.values()} == {file_digest(trained / "best.ckpt")}
    for name in (images[0].name, f"{images[0].stem}-overlay.png"):
        other = tmp_path / "others" / name
        other.parent.mkdir(exist_ok=True)
        shutil.copy(images[1], other)
        twice = synthpipe("predict", trained / "best.ckpt", images[0], other, "-o", tmp_path)
        assert twice.exit_code == 1 and f"{images[0]} and {other} both give {name}" in twice.stderr


def test_dark_images_are_told_once_by_every_command(data_set: DataSet, trained: Path, tmp_path: Path) -> None:
    folder, checkpoint = tmp_path / "val", trained / "best.ckpt"
    for kind in ("img", "mask"):
        shutil.copytree(data_set.validation / kind, folder / kind)
    first, second, *_ = sorted((folder / "img").iterdir())
    for path in (first, second):
        with PillowImage.open(path) as picture:
            dark = PillowImage.fromarray(np.full(picture.size[::-1], 4095, np.uint16))
        dark.save(path)
    note = f"note: {first} and 1 more: 16-bit values below a tenth of the range are read as nearly black"
    for arguments in (
        ("predict", checkpoint, first, second, "-o", tmp_path / "predicted"),
        ("evaluate", checkpoint, "--data", folder, "-o", tmp_path / "evaluated", "--replicates", "1"),
    ):
        result = synthpipe(*arguments, "--device", "cpu")
        assert result.exit_code == 0 and result.stderr.count(note) == 1, result.output


def test_images_that_harm_are_refused_by_every_command(
    data_set: DataSet, config: Path, trained: Path, tmp_path: Path
) -> None:
    folder, checkpoint = tmp_path / "val", trained / "best.ckpt"
    for kind in ("img", "mask"):
        shutil.copytree(data_set.validation / kind, folder / kind)
    good, image = sorted((folder / "img").iterdir())[0], max((folder / "img").iterdir())
    with PillowImage.open(image) as picture:
        pixels = picture.width * picture.height
    few = "--max-pixels", pixels - 1

    def refused(message: str, *more: object) -> None:
        for command in (
            ("predict", checkpoint, good, image, "-o", tmp_path / "masks", "--device", "cpu"),
            ("evaluate", checkpoint, "--data", folder, "-o", tmp_path / "test", "--device", "cpu"),
            ("train", data_set.curated, "--set", "real=0", "--val", folder, "--config", config, "-o", tmp_path / "run"),
            (
                *("baseline", data_set.curated, "--real", data_set.root, "--val", folder, "--data", folder),
                *("--config", config, "-o", tmp_path / "bounds"),
            ),
        ):
            result = synthpipe(*command, *more)
            assert result.exit_code == 1 and message in result.stderr, (command, result.output)

    refused(f"pixels, expected at most {pixels - 1}; raise patches.max_pixels or --max-pixels to allow more", *few)
    predicted = synthpipe("predict", checkpoint, good, image, "-o", tmp_path / "few", "--max-pixels", 9)
    assert predicted.stderr.count("expected at most") == 1 and f"the same for 1 more: {image.name}" in predicted.stderr
    image.write_bytes(image.read_bytes()[:-300])
    refused(f"{image}: is truncated: its chunk IDAT ends after the end of the file")
    assert (tmp_path / "masks" / good.name).exists()  # what was done before is kept
    image.unlink()
    os.mkfifo(image)
    refused(f"{image}: cannot be read: is a named pipe, expected a file")
    for command in ("pseudo-label", checkpoint, "-o", tmp_path / "pseudo.zarr"), ("index", "--layout", "wsss4luad"):
        where = ("--real", data_set.root) if command[0] == "pseudo-label" else (data_set.root,)
        result = synthpipe(*command, *where, "--max-pixels", 9)
        assert "pixels, expected at most 9" in result.output, result.output


def test_names_need_not_be_unicode(data_set: DataSet, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    image, mask = (min((data_set.validation / kind).iterdir()) for kind in ("img", "mask"))
    stems = {"a\udcff": "a\\udcff", "a\\udcff": "a\\\\udcff", "$x_{$\x1b": "$x_{$\x1b", "x" * 230: "x" * 230}
    for kind, source in {"img": image, "mask": mask}.items():
        (folder / kind).mkdir(parents=True)
        for stem in stems:
            shutil.copy(source, folder / kind / f"{stem}.png")
    output = tmp_path / "test\udcfe"
    result = synthpipe("evaluate", trained / "best.ckpt", "--data", folder, "-o", output, "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert set(found["images"]) == set(stems.values())
    predicted = synthpipe("predict", trained / "best.ckpt", *(folder / "img").iterdir(), "-o", output / "masks")
    assert predicted.exit_code == 0, predicted.output
    for written in (output / "pictures", output / "masks"):
        names = {path.name for path in written.glob("*.png") if not path.stem.endswith("-overlay")}
        assert len(names) == 4 and {f"{name}.png" for name in stems.values() if len(name) < 200} < names
        assert "\udcff" not in "".join(names)


def test_pseudo_labels_serve_a_second_training(data_set: DataSet, config: Path, trained: Path, tmp_path: Path) -> None:
    pseudo = tmp_path / "pseudo.zarr"
    for now in (40, 0):
        result = synthpipe(
            "pseudo-label", trained / "best.ckpt", "--real", data_set.root, "-o", pseudo, "--device", "cpu"
        )
        assert result.exit_code == 0 and f"40 real patches with predicted masks, {now} of them now" in result.stdout
    result = training(data_set, config, tmp_path / "stage-2", pseudo)
    assert result.exit_code == 0, result.output


def self_training(data_set: DataSet, config: Path, output: Path, *more: object) -> tuple[object, ...]:
    return (
        "self-train", data_set.curated, "--real", data_set.root, "--val", data_set.validation, "--config", config,
        "-o", output, *more,
    )  # fmt: skip


def test_self_training_does_what_the_single_commands_do(
    data_set: DataSet, config: Path, trained: Path, tmp_path: Path
) -> None:
    planned = synthpipe(*self_training(data_set, config, tmp_path / "self", "--device", "cpu", "--dry-run"))
    assert planned.exit_code == 0 and "would train" in planned.stdout and not (tmp_path / "self").exists()
    assert f"round 3 of 3: pseudo-label {tmp_path / 'self' / 'round-2'} -o" in planned.stderr
    two = self_training(data_set, config, tmp_path / "self", "--device", "cpu", "--rounds", "2")
    result = synthpipe(*two)
    assert result.exit_code == 0 and result.stdout.count("trained 6 steps") == 2, result.output
    pseudo = tmp_path / "pseudo.zarr"
    synthpipe("pseudo-label", trained, "--real", data_set.root, "-o", pseudo, "--device", "cpu")
    training(data_set, config, tmp_path / "stage-2", pseudo)
    weights = [Checkpoint.load(each / "best.ckpt").network(torch.device("cpu")) for each in (
        tmp_path / "self" / "round-2", tmp_path / "stage-2", tmp_path / "self" / "round-1", trained,
    )]  # fmt: skip
    second, expected, first, alone = (each.state_dict() for each in weights)
    assert all(torch.equal(second[key], expected[key]) and torch.equal(first[key], alone[key]) for key in second)
    assert any(not torch.equal(first[key], second[key]) for key in second)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "self").glob("round-*/last.ckpt")}
    longer = synthpipe(*two[:-1], "3")
    assert longer.exit_code == 0 and "40 real patches with predicted masks, 0 of them now" in longer.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert (tmp_path / "self" / "round-3" / "best.ckpt").exists()


def test_self_training_writes_into_no_other_folder(data_set: DataSet, config: Path, trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    result = synthpipe(*self_training(data_set, config, trained, "--device", "cpu"))
    assert result.exit_code == 1 and str(trained) in result.stderr and sorted(trained.rglob("*")) == before


@pytest.mark.slow
def test_self_training_on_several_devices(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    arguments = self_training(data_set, config, tmp_path, "--device", "cpu,cpu", "--rounds", 3)
    command = [sys.executable, "-m", "synthpipe", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("trained ") == 3 and result.stderr.count("round 3 of 3: ") == 1
    assert result.stdout.count("40 real patches with predicted masks, 40 of them now") == 2


def test_baselines_stand_beside_the_composites(data_set: DataSet, config: Path, trained: Path, tmp_path: Path) -> None:
    result = synthpipe(
        "baseline", data_set.curated, "--real", data_set.root, "--masks", data_set.root / "masked",
        "--val", data_set.validation, "--data", data_set.root / "3.testing", "--config", config, "--device", "cpu",
        "--compare", trained / "best.ckpt", "--window", "flips=false", "-o", tmp_path / "bounds",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.startswith("mIoU 0.") for line in lines] == [True, True, True, True, False]
    assert lines[0].endswith(f" if every pixel were {_most_frequent(data_set.root / '3.testing')}")
    assert "image labels alone (lower bound)" in lines[1] and str(trained) in lines[2]
    assert "100.0% of the upper bound" in lines[3]
    found = json.loads((tmp_path / "bounds" / "baseline.json").read_text())
    assert [f"mIoU {row['miou']:.4f}" for row in found.values()] == [line[:11] for line in lines[1:4]]
    assert [row["details"] for row in found.values()] == ["test-labels", "test-1", "test-masks"]
    details = json.loads((tmp_path / "bounds" / "test-labels" / "metrics.json").read_text())
    assert details["windows"]["flips"] is False and len(details["measured_on"]) == 64
    images = data_set.root / "3.testing"
    beside = synthpipe(
        "evaluate", trained / "best.ckpt", "--data", images, "-o", tmp_path / "test", "--window", "flips=false"
    )
    compared = [line.removeprefix("for comparison: ") for line in beside.stdout.splitlines() if "comparison" in line]
    assert [line[:11] for line in compared] == [lines[0][:11], lines[1][:11], lines[3][:11]]
    assert compared[1].endswith(f" by image labels alone (lower bound), {tmp_path / 'bounds'}")
    alone = synthpipe("evaluate", trained / "best.ckpt", "--data", images, "-o", tmp_path / "other" / "windows")
    assert alone.stdout.count("for comparison") == 1 and "note: `synthpipe baseline` measures" in alone.stdout


def _most_frequent(folder: Path) -> str:
    pixels = np.concatenate([np.asarray(PillowImage.open(path)).ravel() for path in (folder / "mask").iterdir()])
    return ("tumour", "stroma", "normal")[np.bincount(pixels, minlength=4)[:3].argmax()]


def test_a_network_of_other_classes_is_no_comparison(
    data_set: DataSet, config: Path, trained: Path, tmp_path: Path
) -> None:
    kept = Checkpoint.load(trained / "best.ckpt")
    classes = tuple(reversed(kept.description.taxonomy.classes))
    description = replace(kept.description, taxonomy=replace(kept.description.taxonomy, classes=classes))
    replace(kept, description=description).save(tmp_path / "other.ckpt")
    result = synthpipe(
        "baseline", data_set.curated, "--real", data_set.root, "--val", data_set.validation,
        "--data", data_set.root / "3.testing", "--config", config, "--device", "cpu",
        "--compare", tmp_path / "other.ckpt", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1 and "other.ckpt: has other classes than" in result.stderr
    assert "training: 0" not in result.stderr and not (tmp_path / "out").exists()


def test_windows_are_refused_before_a_baseline_is_trained(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    result = synthpipe(
        "baseline", data_set.curated, "--real", data_set.root, "--val", data_set.validation,
        "--data", data_set.root / "3.testing", "--config", config, "--device", "cpu", "--window", "strid=8",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1 and "did you mean 'stride'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_windows_are_refused_that_a_compared_network_cannot_take(
    data_set: DataSet, config: Path, trained: Path, tmp_path: Path
) -> None:
    """Its canvas is a smaller one."""
    kept = Checkpoint.load(trained / "best.ckpt")
    replace(kept, description=replace(kept.description, size=(16, 16))).save(tmp_path / "smaller.ckpt")
    result = synthpipe(
        "baseline", data_set.curated, "--real", data_set.root, "--val", data_set.validation,
        "--data", data_set.root / "3.testing", "--config", config, "--device", "cpu", "--window", "stride=24",
        "--compare", tmp_path / "smaller.ckpt", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1 and "stride: got 24; expected at most the size, (16, 16)" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_image_serves_one_purpose(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    """A copy of it too."""
    copied = Path(shutil.copytree(data_set.validation, tmp_path / "copied"))
    for masks, data in ((copied, data_set.root / "3.testing"), (data_set.root / "masked", copied)):
        result = synthpipe(
            "baseline", data_set.curated, "--real", data_set.root, "--masks", masks, "--val", data_set.validation,
            "--data", data, "--config", config, "-o", tmp_path / "out",
        )  # fmt: skip
        assert result.exit_code == 1 and "give folders that share no images" in result.output
        assert str(copied) in result.output and str(data_set.validation) in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_baselines_are_trained_on_several_devices(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    """The second training goes on with the processes of the first."""
    arguments = (
        "baseline", data_set.curated, "--real", data_set.root, "--masks", data_set.root / "masked",
        "--val", data_set.validation, "--data", data_set.root / "3.testing", "--config", config, "--device", "cpu,cpu",
        "-o", tmp_path,
    )  # fmt: skip
    command = [sys.executable, "-m", "synthpipe", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("of the upper bound") == 2
    assert result.stdout.count("mIoU") == 3  # beside them that of one class everywhere
    assert result.stderr.count("catalog: 0 of") == 1  # by one process alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--set", "epoch=3"), "epoch: no such key; did you mean 'epochs'?"),
        (("--val", "."), "expected a folder that contains img/ and mask/"),
        (("--layout", "bcss-wsss"), "expected one of them for layout bcss-wsss"),
        (("--device", "x"), "--device x: "),
        (("--set", "network.encoder=resnet81", "--dry-run"), "has no 'resnet81'; did you mean resnet"),
    ],
)
def test_what_cannot_be_trained_is_explained(
    data_set: DataSet, config: Path, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    result = training(data_set, config, tmp_path / "run", *changes)
    assert result.exit_code == 1 and message in result.stderr and "Traceback" not in result.output
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_real_patches_that_cannot_be_used_are_left_out(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    """Training has no key for it, whatever `patches.on_error` of the build was."""
    real = shutil.copytree(data_set.root, tmp_path / "real")
    folder = next(path for path in real.iterdir() if "training" in path.name)
    PillowImage.new("RGB", (32, 32), (9, 9, 9)).save(folder / "blank-1-[1, 0, 0].png")
    arguments = ("train", data_set.curated, "--real", real, "--val", data_set.validation, "--config", config)
    result = synthpipe(*arguments, "--dry-run", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "40 real patches" in result.stdout
    assert "note: real patches left out because they cannot be used: 1; the first: patch 'blank-1-" in result.stderr


def test_real_patches_are_asked_for(data_set: DataSet, config: Path, tmp_path: Path) -> None:
    arguments = ("train", data_set.curated, "--val", data_set.validation, "--config", config, "-o", tmp_path)
    result = synthpipe(*arguments)
    assert result.exit_code == 1 and "--real: missing; name the data set of the real patches" in result.stderr


def test_a_full_device_is_explained() -> None:
    """What torch raises where a GPU's memory is full, which no test can fill without one."""

    @click.group(cls=ExplainingGroup)
    def group() -> None: ...

    @group.command()
    def fill() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    @group.command()
    def fill_libraries() -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nmore")

    for command, found in (("fill", "CUDA out of memory. Tried"), ("fill-libraries", "cuDNN error: CUDNN_STATUS")):
        result = CliRunner().invoke(group, [command])
        assert result.exit_code == 1 and f"memory is full: {found}" in result.stderr
        assert "composites and real" in result.stderr and "unexpected" not in result.stderr


def test_a_cpu_whose_memory_is_full_is_explained(
    data_set: DataSet, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("synthpipe.segment.checkpoint.Checkpoint.load", full)
    result = synthpipe("evaluate", trained, "--data", data_set.validation, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "memory is full: " in result.stderr and "--workers" in result.stderr
    assert "fault of synthpipe" not in result.stderr


def test_a_dead_reader_is_explained() -> None:
    """What torch raises where shared memory is full, which no test can fill without a container."""

    @click.group(cls=ExplainingGroup)
    def group() -> None: ...

    @group.command()
    def read() -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible ...\nmore")

    result = CliRunner().invoke(group, ["read"])
    assert result.exit_code == 1 and "has died: DataLoader worker (pid 7) is killed by signal: Bus" in result.stderr
    assert "--shm-size" in result.stderr and "--readers 0" in result.stderr and "unexpected" not in result.stderr


@pytest.mark.slow
def test_without_its_packages_the_stage_says_which_extra_to_install(
    data_set: DataSet, trained: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['segmentation_models_pytorch'] = None; from synthpipe.cli import main; "
        f"main(['evaluate', {str(trained)!r}, '--data', {str(data_set.validation)!r}, '-o', {str(tmp_path / 'out')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "pip install segmentation-models-pytorch\n" in result.stderr
    assert "Traceback" not in result.stderr
