"""Features of a network: they need fitting weights, and depend on the image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthpipe.core.errors import ConfigError
from synthpipe.pretrained.features import NetworkFeatures
from tests.imagenet import LITE0


def test_features_follow_from_the_image_and_its_weights() -> None:
    features = NetworkFeatures("tf_efficientnet_lite0", LITE0)
    rng = np.random.default_rng(5)
    small, large = (
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((48, 52), (300, 260))
    )
    found = features(small)
    assert found.shape == features(large).shape == (1280,)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(features(small), found)
    assert not np.allclose(features(255 - small), found)
    np.testing.assert_array_equal(NetworkFeatures("tf_efficientnet_lite0", LITE0)(small), found)


def test_an_unknown_network_and_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--network resnet1: timm .* has no such network"):
        NetworkFeatures("resnet1", LITE0)
    with pytest.raises(ConfigError, match=r"--weights: .* does not fit resnet18"):
        NetworkFeatures("resnet18", LITE0)
    with pytest.raises(ConfigError, match=r"--weights: .*none\.pth: not found"):
        NetworkFeatures("tf_efficientnet_lite0", str(tmp_path / "none.pth"))
