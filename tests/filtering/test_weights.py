from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synthpipe.errors import FilterError
from synthpipe.filtering.scoring import Scorer, load_scorer
from synthpipe.filtering.training import train_filter
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
    first = load_scorer(path)
    report = train_filter(one_epoch, "bezier", data(16), 1, tmp_path)
    assert first.sha256 != load_scorer(path).sha256 == report.model_sha256
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(FilterError, match=r"bezier\.safetensors: is damaged: its weights are not those"):
        Scorer.load(path)


def test_images_of_another_type_are_refused(tmp_path: Path) -> None:
    wrong = replace(data(16), real_val=np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"real_val: its images are \(16, 16, 3\), those of synthetic_train \(32, 32"):
        train_filter(settings(), "mosaic", wrong, 0, tmp_path)
    assert not list(tmp_path.iterdir())
