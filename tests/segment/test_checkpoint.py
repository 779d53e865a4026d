from __future__ import annotations

import json
import math
import os
import pickle
import re
import resource
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from synthpipe.config.pipeline import GlassSection, PatchesSection
from synthpipe.core.errors import StoreError
from synthpipe.curated import Description
from synthpipe.pretrained.tensors import pack, unpack
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import NetworkSection, TrainSettings
from tests.conftest import pipeline

SETTINGS = TrainSettings(network=NetworkSection(architecture="Unet", encoder="tu-test_resnet", weights=None))
DESCRIPTION = Description(
    pipeline().taxonomy,
    (64, 96),
    "f" * 64,
    PatchesSection(root=".", layout="wsss4luad", group_pattern="^(.)", exclude=("a*",)),
    GlassSection(threshold=220, min_area=250, max_share=0.8, max_draws=20),
)


@cache
def checkpoint() -> Checkpoint:
    """Return a checkpoint that all tests share: a test that changes tensors copies them."""
    torch.manual_seed(3)
    network = SegmentationNetwork(SETTINGS.network, 3)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(2, 3, 32, 32)).masks.sum().backward()
    optimizer.step()
    return Checkpoint(
        SETTINGS,
        DESCRIPTION,
        {"curated 1": "d" * 64},
        False,
        {"step": 7, "best_miou": 0.5, "best_epoch": 1},
        network.state_dict(),
        optimizer.state_dict(),
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    made = checkpoint()
    made.save(tmp_path / "a.ckpt")
    read = Checkpoint.load(tmp_path / "a.ckpt")
    assert (read.settings, read.description, read.sources, read.by_cam, read.progress) == (
        made.settings,
        made.description,
        made.sources,
        made.by_cam,
        made.progress,
    )
    assert read.weights.keys() == made.weights.keys()
    assert all(torch.equal(read.weights[name], made.weights[name]) for name in made.weights)
    assert made.optimizer and read.optimizer
    assert torch.equal(read.optimizer["state"][0]["exp_avg"], made.optimizer["state"][0]["exp_avg"])
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    original = SegmentationNetwork(SETTINGS.network, 3).eval()
    original.load_state_dict(made.weights)
    with torch.inference_mode():
        assert torch.equal(read.network(torch.device("cpu")).segment(images), original.segment(images))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path: Path) -> None:
    made = checkpoint()
    made.save(tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, before[1]))
    try:
        with pytest.raises(StoreError, match=r"a\.ckpt: cannot be written: .*; allow larger files"):
            made.save(tmp_path / "a.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.ckpt").read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_weights_of_another_network_are_refused() -> None:
    made = checkpoint()
    other = replace(made, weights={name: value for name, value in made.weights.items() if not name.startswith("cam")})
    with pytest.raises(StoreError, match="weights do not fit Unet with tu-test_resnet of segmentation-models-pytorch"):
        other.network(torch.device("cpu"))


class Evil:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"format_version": 1, "about": Evil(mark)}, tmp_path / "evil.ckpt")
    with pytest.raises(StoreError, match=r"evil\.ckpt: is damaged, or is not a checkpoint that can be read safely"):
        Checkpoint.load(tmp_path / "evil.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with pytest.raises(StoreError, match="read safely"):
        Checkpoint.load(tmp_path / "pickle.ckpt")
    with pytest.raises(StoreError) as caught:
        Checkpoint.load(tmp_path / "evil.ckpt")
    assert "weights_only" not in str(caught.value)  # torch's advice is to read it in the other way
    torch.save({"format_version": 1, "about": bytearray(10)}, tmp_path / "large.ckpt")  # of any size, in a few bytes
    with pytest.raises(StoreError, match="expected tensors and plain values, found"):
        Checkpoint.load(tmp_path / "large.ckpt")
    assert not mark.exists()


def test_a_header_whose_length_reads_like_the_mark_of_an_archive_is_none(tmp_path: Path) -> None:
    path, made = tmp_path / "a.ckpt", checkpoint()
    replace(made, sources={"filler": ""}).save(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    mark = int.from_bytes(b"PK", "little")
    replace(made, sources={"filler": "x" * ((mark - length) % (1 << 16))}).save(path)
    assert path.read_bytes().startswith(b"PK")
    assert "filler" in Checkpoint.load(path).sources


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not found; expected a checkpoint"):
        Checkpoint.load(tmp_path / "none.ckpt")
    torch.save({"weights": {}}, tmp_path / "other.ckpt")
    with pytest.raises(StoreError, match="is not a checkpoint of synthpipe"):
        Checkpoint.load(tmp_path / "other.ckpt")
    torch.save({"format_version": 99}, tmp_path / "new.ckpt")
    with pytest.raises(StoreError, match="format_version is 99, this synthpipe reads 1 and 2"):
        Checkpoint.load(tmp_path / "new.ckpt")
    for foreign in (b"network: {architecture: Unet}\n", b"\x80\x02.", b"\x89PNG\r\n\x1a\n", b"\0" * 100):
        (tmp_path / "foreign.ckpt").write_bytes(foreign)
        with pytest.raises(
            StoreError, match=r"foreign\.ckpt: is damaged, or is not a checkpoint that can be read safely"
        ):
            Checkpoint.load(tmp_path / "foreign.ckpt")
    checkpoint().save(tmp_path / "cut.ckpt")
    whole = (tmp_path / "cut.ckpt").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"cut\.ckpt: is damaged, or is not a checkpoint"):
            Checkpoint.load(tmp_path / "cut.ckpt")


def former(made: Checkpoint, path: Path, **changes: Any) -> Path:
    """Write a checkpoint as format version 1 did."""
    about = {
        "settings": made.settings.dump(),
        "description": made.description.to_json(),
        "sources": made.sources,
        "by_cam": made.by_cam,
        "progress": made.progress,
    }
    data = {"format_version": 1, "about": json.dumps(about), "weights": dict(made.weights), "optimizer": made.optimizer}
    torch.save(data | changes, path)
    return path


def test_a_checkpoint_of_the_former_format_is_read(tmp_path: Path) -> None:
    made = checkpoint()
    read = Checkpoint.load(former(made, tmp_path / "old.ckpt"))
    made.save(tmp_path / "new.ckpt")
    assert replace(read, weights={}, optimizer=None) == replace(made, weights={}, optimizer=None)
    read.save(tmp_path / "again.ckpt")
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "new.ckpt").read_bytes()


@pytest.mark.parametrize("version", [1, 2])
def test_four_lost_kibibytes_anywhere_are_noticed(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.ckpt"
    made = checkpoint()
    if version == 1:
        former(made, path)
    else:
        made.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole) - 4096, len(whole) // 20):
        lost = bytes(4096) if any(whole[place : place + 4096]) else b"\1" * 4096
        path.write_bytes((whole[:place] + lost + whole[place + 4096 :])[: len(whole)])
        with pytest.raises(
            StoreError, match=r"a\.ckpt: is damaged, or is not a checkpoint .*: .*; use an undamaged copy"
        ):
            Checkpoint.load(path)


def forged(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> str:
    """Change a checkpoint, checksum and all; return how it is refused."""
    checkpoint().save(path)
    text, tensors = unpack(path.read_bytes())
    about = json.loads(text)
    change(about, tensors)
    path.write_bytes(pack(about, tensors))
    with pytest.raises(StoreError) as caught:
        Checkpoint.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be used: ") and "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("by_cam", "false", "by_cam is 'false'; input should be a valid boolean"),
        ("progress.step", "7", "progress.step is '7'"),
        ("progress.step", -1, "progress.step is -1"),
        ("progress.best_miou", "high", "progress.best_miou"),
        ("progress.best_epoch", 0.5, "progress.best_epoch"),
        ("sources", {"curated 1": 3}, "sources.curated 1 is 3"),
        ("sources", [[[]]], "sources"),
        ("settings.composites", "4", "settings.composites is '4'"),
        ("settings.network.mean", [0, 0], "settings.network.mean"),
        ("settings.network.std", [0, 0, 0], "settings.network.std.0 is 0"),
        ("settings.network.architecture", "os.system", "network.architecture: .* has no 'os.system'"),
        ("settings.network.encoder", "tu-resnet10t", "weights/.* is unknown|is missing|expected"),
        ("settings.network.encoder", "tu-vit_7b_patch16_dinov3", "network|weights"),
        ("description.size", [0, 64], "size.0 is 0"),
        ("description.size", [10**7, 64], "canvas is 10000000 x 64 pixels, expected sides of at most 4096"),
        ("description.size", [64], "size"),
        ("description.background_color", [300, 0, 0], "background_color.0 is 300"),
        ("description.classes", [], "classes is .*at least 2"),
        ("description.classes.0.color", [0, 0, 300], "classes.0.color.2 is 300"),
        ("description.classes.0.name", 7, "classes.0.name is 7"),
        ("description.classes.0.name", "normal", "'normal' names two classes"),
        ("description.fingerprint", None, "fingerprint is None"),
        ("description.patches.layout", "ftp", "layout"),
        ("description.patches.group_pattern", "(", "group_pattern: is not a regular expression"),
        ("description.glass", {"threshold": 999}, "glass.threshold is 999"),
        ("more", 1, "more is 1"),
    ],
)
def test_what_no_training_writes_is_refused(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    def change(about: Any, tensors: object) -> None:
        *parents, last = key.split(".")
        for parent in parents:
            about = about[int(parent) if parent.isdigit() else parent]
        about[last] = value

    assert re.search(expected, forged(tmp_path / "a.ckpt", change))


def test_too_many_classes_are_refused(tmp_path: Path) -> None:
    def change(about: Any, tensors: object) -> None:
        about["description"]["classes"] = [{"name": f"c{number}", "color": [0, 0, 0]} for number in range(255)]

    assert "at most 254" in forged(tmp_path / "a.ckpt", change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weights: weights["weights/cam.1.bias"].fill_(math.nan), "weights/cam.1.bias has values that are not"),
        (lambda weights: weights["weights/cam.1.bias"].fill_(-math.inf), "weights/cam.1.bias has values that are not"),
        (lambda weights: weights.pop("weights/cam.1.bias"), "weights/cam.1.bias is missing"),
        (lambda weights: weights.update({"weights/more": torch.ones(1)}), "weights/more is unknown"),
        (lambda weights: weights.update({"more": torch.ones(1)}), "tensors that are neither weights nor"),
        (
            lambda weights: weights.update({"weights/cam.1.bias": torch.ones(4)}),
            r"weights/cam.1.bias is float32 of shape \(4,\), expected float32 of shape \(3,\)",
        ),
        (lambda weights: weights.update({"weights/cam.1.bias": torch.ones(3).double()}), "is float64 of shape"),
        (lambda weights: weights["optimizer/0/exp_avg"].fill_(math.nan), "optimizer/0/exp_avg has values that are not"),
        (lambda weights: weights["optimizer/0/exp_avg_sq"].fill_(-1), "optimizer/0/exp_avg_sq has values below 0"),
        (lambda weights: weights["optimizer/0/step"].fill_(-1), "optimizer/0/step has values below 0"),
        (lambda weights: weights.pop("optimizer/0/step"), "optimizer/0/step is missing"),
        (lambda weights: weights.update({"optimizer/999/step": torch.ones(())}), "optimizer/999/step is unknown"),
        (lambda weights: weights.update({"optimizer/0/step": torch.ones(3)}), "optimizer/0/step is float32 of shape"),
    ],
)
def test_tensors_that_no_training_writes_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], expected: str
) -> None:
    assert re.search(expected, forged(tmp_path / "a.ckpt", lambda about, tensors: change(tensors)))


@pytest.mark.parametrize(
    "encoder",
    [
        "tu-hf-hub:timm/resnet18.a1_in1k",
        "tu-hf_hub:timm/resnet18",
        "tu-local-dir:/tmp/network",
        "tu-timm/resnet18",
        "tu-resnet18.x:y",
        "tu-resnet18.a/../b",
        "hf-hub:timm/resnet18",
        "https://example.org/network",
        "tu-",
    ],
)
def test_a_checkpoint_reaches_no_network(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: object) -> None:
        pytest.fail("a network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)

    def change(about: Any, tensors: object) -> None:
        about["settings"]["network"] |= {"encoder": encoder, "weights": "imagenet"}

    assert "network.encoder: " in forged(tmp_path / "a.ckpt", change)


def test_weights_that_a_checkpoints_settings_name_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SETTINGS.network.model_copy(update={"weights": "imagenet"})
    replace(checkpoint(), settings=SETTINGS.model_copy(update={"network": network})).save(tmp_path / "a.ckpt")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **keywords: pytest.fail("a network was asked"))
    Checkpoint.load(tmp_path / "a.ckpt").network(torch.device("cpu"))


def test_tensors_that_are_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    made = checkpoint()
    thin = {name: torch.zeros(()).expand(values.shape) for name, values in made.weights.items()}
    path = former(made, tmp_path / "thin.ckpt", weights=thin, optimizer=None)
    with pytest.raises(StoreError, match="its tensors are larger than the file"):
        Checkpoint.load(path)
    sparse = {name: values.to_sparse() for name, values in made.weights.items() if values.ndim == 4}
    with pytest.raises(StoreError, match="expected tensors and plain values, found"):
        Checkpoint.load(former(made, path, weights=sparse))
    with zipfile.ZipFile(former(made, path)) as archive, zipfile.ZipFile(tmp_path / "z.ckpt", "w", 8) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(StoreError, match="its members are compressed"):
        Checkpoint.load(tmp_path / "z.ckpt")


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(StoreError, match=r"pipe\.ckpt: is a named pipe, expected a file"):
        Checkpoint.load(tmp_path / "pipe.ckpt")
    with (tmp_path / "hole.ckpt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match=r"hole\.ckpt: has 1099511627776 bytes, expected at most"):
        Checkpoint.load(tmp_path / "hole.ckpt")


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    bias = torch.full_like(checkpoint().weights["cam.1.bias"], math.nan)
    made = replace(checkpoint(), weights={**checkpoint().weights, "cam.1.bias": bias})
    with pytest.raises(StoreError, match=r"a\.ckpt: is not written: weights/cam\.1\.bias has values"):
        made.save(tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_description_survives_json() -> None:
    assert Description.from_json(DESCRIPTION.to_json()) == DESCRIPTION
