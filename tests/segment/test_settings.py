from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from synthpipe.config.settings_file import load_settings
from synthpipe.core.errors import ConfigError
from synthpipe.segment.settings import TrainSettings
from tests.conftest import ROOT

TRAIN = ROOT / "pipelines" / "training" / "published.yaml"


def test_the_file_of_the_published_training_says_what_holds_without_a_file() -> None:
    assert load_settings(TrainSettings, TRAIN) == TrainSettings()
    assert _keys(yaml.safe_load(TRAIN.read_text(encoding="utf-8"))) == _keys(TrainSettings().dump())


def _keys(settings: dict[str, Any]) -> set[str]:
    """Return all keys of a settings file, those of its sections too."""
    inner = ({f"{key}.{each}" for each in section} for key, section in settings.items() if isinstance(section, dict))
    return set(settings).union(*inner)


def test_published_values_stand() -> None:
    """Method section 4."""
    found = TrainSettings()
    assert (found.network.architecture, found.network.encoder) == ("DeepLabV3Plus", "efficientnet-b6")
    assert (found.composites, found.real, found.epochs) == (32, 32, 25)
    assert (found.optimizer.learning_rate, found.optimizer.weight_decay) == (1e-4, 0.05)
    assert (found.loss.dice, found.loss.labels, found.loss.consistency) == (1, 1, 1)
    assert found.augmentation.crop == (0.9, 1.0) and found.network.dropout == 0.5


def test_the_demos_training_is_valid() -> None:
    assert load_settings(TrainSettings, ROOT / "pipelines" / "training" / "demo.yaml").network.architecture == "Linknet"


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("epoch: 3\nloss: {dice: -1}\nvalidation: {size: 8, stride: 9}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(TrainSettings, path, ("network.encoders=x",))
    message = str(caught.value)
    assert message.startswith(f"{path}: 4 mistakes")
    assert "epoch: no such key; did you mean 'epochs'?" in message and "loss.dice: got -1" in message
    assert "validation.stride: got 9" in message and "network.encoders: no such key; did you mean 'encoder'" in message
    with pytest.raises(ConfigError, match=r"^--set: 1 mistake"):
        load_settings(TrainSettings, None, ("epochs=0",))
