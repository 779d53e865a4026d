from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from synthpipe.core.errors import FilterError
from synthpipe.filtering.network import _digest
from synthpipe.filtering.scoring import Scorer
from synthpipe.filtering.training import train_filter
from synthpipe.pretrained.tensors import KEY, read_safetensors
from tests.filtering.test_filter import data, settings, views


def test_a_later_and_worse_epoch_is_not_kept(tmp_path: Path) -> None:
    sound = data()
    # in the last epochs the "real" views are composites and the other way round
    spoilt = replace(sound, real_train=lambda epoch: views(96, epoch >= 2, 10 + epoch))
    short = train_filter(settings(epochs={"mosaic": 2, "bezier": 1}), "mosaic", spoilt, 5, tmp_path / "short")
    long = train_filter(settings(epochs={"mosaic": 4, "bezier": 1}), "mosaic", spoilt, 5, tmp_path / "long")
    assert long.epochs[-1].val_accuracy < long.accuracy
    assert long.best_epoch == short.best_epoch and long.model_sha256 == short.model_sha256


def test_one_flipped_bit_of_the_weights_is_noticed_and_a_new_file_is_read(tmp_path: Path) -> None:
    one_epoch = settings(epochs={"mosaic": 1, "bezier": 1})
    train_filter(one_epoch, "bezier", data(16), 0, tmp_path)
    path = tmp_path / "bezier.safetensors"
    first = Scorer.load(path)
    report = train_filter(one_epoch, "bezier", data(16), 1, tmp_path)
    assert first.sha256 != Scorer.load(path).sha256 == report.model_sha256
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(FilterError, match=r"bezier\.safetensors: is damaged: the checksum of its weights is wrong"):
        Scorer.load(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a filter."""
    directory = tmp_path_factory.mktemp("filter")
    train_filter(settings(epochs={"mosaic": 1, "bezier": 1}), "mosaic", data(16), 0, directory)
    return directory / "mosaic.safetensors"


def copy(trained: Path, target: Path, changes: dict[str, Any], spoil: str = "", value: float = 0) -> Path:
    """Write a filter's file again with other fields or weights, checksum and all."""
    text, tensors = read_safetensors(trained.read_bytes())
    if spoil:
        tensors[spoil].flatten()[0] = value
    about = json.loads(text) | {"weights_sha256": _digest(tensors)} | changes
    target.write_bytes(safetensors.torch.save(tensors, {KEY: json.dumps(about)}))
    return target


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "hf-hub:timm/resnet18.a1_in1k"}, "timm .* has no network 'hf-hub:timm/resnet18.a1_in1k'"),
        ({"network": "test_resnet.x:y"}, "has no network 'test_resnet.x:y'"),
        ({"network": "test_resnet.no_such_tag"}, "timm .* cannot make 'test_resnet.no_such_tag'"),
        ({"network": "resnet10t"}, "weights do not fit resnet10t of timm .*: .*(missing|unknown|expected)"),
        ({"network": 3}, "network is 3"),
        ({"mean": "0.5"}, "mean is '0.5'"),
        ({"std": [0, 1, 1]}, "std.0 is 0"),
        ({"classes": ["real", "synthetic"]}, "classes.0 is 'real'"),
        ({"format_version": 9}, "format_version is 9"),
    ],
)
def test_a_filter_that_no_training_writes_is_refused(
    trained: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FilterError, match=rf"forged: .*{reason}.*; remove the file and build again"):
        Scorer.load(copy(trained, tmp_path / "forged", changes))


def test_a_filter_whose_weights_are_not_finite_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FilterError, match=r"forged: .*: fc\.weight has values that are not finite; remove the file"):
        Scorer.load(copy(trained, tmp_path / "forged", {}, "fc.weight", math.inf))


def test_a_filter_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FilterError, match="pipe: cannot be read: is a named pipe, expected a file; remove the file"):
        Scorer.load(tmp_path / "pipe")


def test_images_of_another_type_are_refused(tmp_path: Path) -> None:
    wrong = replace(data(16), real_val=np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"real_val: its images have shape \(16, 16, 3\), expected \(32, 32"):
        train_filter(settings(), "mosaic", wrong, 0, tmp_path)
    assert not list(tmp_path.iterdir())
