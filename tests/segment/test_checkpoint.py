from __future__ import annotations

import pickle
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from synthpipe.config import GlassSection, PatchesSection
from synthpipe.errors import StoreError
from synthpipe.handoff import Description
from synthpipe.segment.checkpoint import Checkpoint
from synthpipe.segment.network import SegmentationNetwork
from synthpipe.segment.settings import NetworkSection, TrainSettings
from tests.conftest import pipeline

SETTINGS = TrainSettings(network=NetworkSection(architecture="Unet", encoder="resnet18", weights=None))
DESCRIPTION = Description(
    pipeline().taxonomy,
    (64, 96),
    "f" * 64,
    PatchesSection(root=".", layout="wsss4luad", group_pattern="^(.)", exclude=("a*",)),
    GlassSection(threshold=220, min_area=250, max_share=0.8, max_draws=20),
)


def checkpoint() -> Checkpoint:
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
        with pytest.raises(StoreError, match=r"a\.ckpt: cannot be written: .*; make room"):
            made.save(tmp_path / "a.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.ckpt").read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_weights_of_another_network_are_refused() -> None:
    made = checkpoint()
    other = replace(made, weights={name: value for name, value in made.weights.items() if not name.startswith("cam")})
    with pytest.raises(StoreError, match="weights do not fit Unet with resnet18 of segmentation-models-pytorch"):
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
    with pytest.raises(StoreError, match=r"evil\.ckpt: is no checkpoint that can be read safely"):
        Checkpoint.load(tmp_path / "evil.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with pytest.raises(StoreError, match="read safely"):
        Checkpoint.load(tmp_path / "pickle.ckpt")
    with pytest.raises(StoreError) as caught:
        Checkpoint.load(tmp_path / "evil.ckpt")
    assert "weights_only" not in str(caught.value)  # torch's advice is to read it in the other way
    assert not mark.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not found; expected a checkpoint"):
        Checkpoint.load(tmp_path / "none.ckpt")
    torch.save({"weights": {}}, tmp_path / "other.ckpt")
    with pytest.raises(StoreError, match="is no checkpoint of synthpipe"):
        Checkpoint.load(tmp_path / "other.ckpt")
    torch.save({"format_version": 99}, tmp_path / "new.ckpt")
    with pytest.raises(StoreError, match="format_version is 99, this synthpipe reads 1"):
        Checkpoint.load(tmp_path / "new.ckpt")
    for foreign in (b"network: {architecture: Unet}\n", b"\x80\x02.", b"\x89PNG\r\n\x1a\n", b"\0" * 100):
        (tmp_path / "foreign.ckpt").write_bytes(foreign)
        with pytest.raises(StoreError, match=r"foreign\.ckpt: is no checkpoint that can be read safely"):
            Checkpoint.load(tmp_path / "foreign.ckpt")
    checkpoint().save(tmp_path / "cut.ckpt")
    whole = (tmp_path / "cut.ckpt").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"cut\.ckpt: is no checkpoint"):
            Checkpoint.load(tmp_path / "cut.ckpt")


def test_a_description_survives_json() -> None:
    assert Description.from_json(DESCRIPTION.to_json()) == DESCRIPTION
