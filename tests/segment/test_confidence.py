from __future__ import annotations

import numpy as np
import pytest

from synthpipe.segment.confidence import fit_confidence


def predictions(favour: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth of 4000 pixels, half of each of two classes, and (4000, 3) probabilities that favour class 1."""
    rng = np.random.Generator(np.random.Philox(3))
    truth = np.repeat([0, 2], 2000)
    odds = np.where(truth == 0, 1.5, -1.5) + rng.normal(size=4000) - favour
    probability = 1 / (1 + np.exp(-odds))
    # class 1 is never in the label: what the network says of it does not matter
    return truth, np.stack([probability * 0.5, np.full(4000, 0.5), (1 - probability) * 0.5], 1).astype(np.float32)


LABELS = np.tile(np.array([[1, 0, 1]], np.uint8), (4000, 1))


def test_classes_are_brought_into_balance_and_the_surest_are_kept() -> None:
    truth, probabilities = predictions(favour=2.5)
    assert np.mean(probabilities[:, 0] > probabilities[:, 2]) < 0.25
    found = fit_confidence(probabilities, LABELS, 0.6)
    images = probabilities.T.reshape(1, 3, 40, 100)
    masks = {share: fit_confidence(probabilities, LABELS, share).mask(images, LABELS[:1], 3) for share in (0.6, 1)}
    kept = masks[0.6].ravel()
    assert [np.mean(kept == each) for each in range(4)] == pytest.approx([0.3, 0, 0.3, 0.4], abs=0.01)
    whole = masks[1].ravel()
    assert not (whole == 3).any() and np.mean(whole == 0) == pytest.approx(0.5, abs=0.01)
    assert np.mean(kept[kept < 3] == truth[kept < 3]) > np.mean(whole == truth) > 0.9
    assert found.least.shape == found.bias.shape == (3,)


def test_a_patch_of_one_class_is_filled_with_it() -> None:
    _, probabilities = predictions(favour=0)
    found = fit_confidence(probabilities, LABELS, 0.1)
    images = probabilities.T.reshape(1, 3, 40, 100)
    for label in range(3):
        only = np.eye(3, dtype=np.uint8)[label : label + 1]
        assert (found.mask(images, only, 3) == label).all()


def test_a_class_that_is_never_predicted_gets_pixels() -> None:
    probabilities = np.tile(np.array([[0.0, 0.0, 1.0]], np.float32), (4000, 1))
    probabilities[:, 0] = np.linspace(0, 1e-3, 4000)
    found = fit_confidence(probabilities, LABELS, 1)
    mask = found.mask(probabilities.T.reshape(1, 3, 40, 100), LABELS[:1], 3)
    assert np.mean(mask == 0) == pytest.approx(0.5, abs=0.02)
