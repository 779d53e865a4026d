from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import filter_audit
from benchmarks.filter_audit import (
    at_temperature,
    audit,
    calibration_error,
    cue_aurocs,
    fit_temperature,
    frechet,
    kernel_distance,
)
from tests.imagenet import LITE0


def _drawn(p_real: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(len(p_real)) < p_real


def test_calibrated_scores_have_a_small_error_and_overconfident_ones_a_large_one() -> None:
    p_real = np.linspace(0.01, 0.99, 20_000)
    real = _drawn(p_real)
    confident = at_temperature(p_real, 0.25)
    assert calibration_error(p_real, real) < 0.02 < 0.1 < calibration_error(confident, real)
    found = fit_temperature(confident, real)
    assert found == pytest.approx(4, rel=0.1)
    assert calibration_error(at_temperature(confident, found), real) < 0.02


def test_linear_models_find_a_cue_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    plain = [rng.integers(60, 190, (40, 32, 32, 3), np.uint8) for _ in range(4)]
    seamed = [each.copy() for each in plain]
    for images in (seamed[0], seamed[2]):
        images[:, :, 16:] //= 2  # composites have a seam in the middle
    with_cue = cue_aurocs((seamed[0], seamed[1]), (seamed[2], seamed[3]))
    without = cue_aurocs((plain[0], plain[1]), (plain[2], plain[3]))
    assert with_cue["seams"] > 0.95 and with_cue["all"] > 0.95
    assert all(0.2 < value < 0.8 for value in without.values())


def test_distances_are_those_of_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    first, same, shifted = (rng.normal(mean, 1, (4000, 3)) for mean in (0, 0, 2))
    assert frechet(first, same) < 0.05 and frechet(first, shifted) == pytest.approx(12, rel=0.1)
    assert abs(kernel_distance(first, same)) < 0.05 and kernel_distance(first, shifted) > 1


def test_the_filters_of_a_run_are_examined(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_audit, "_REPLICATES", 3)
    results = audit(small_run, LITE0)
    for found in results["strategies"].values():
        assert 0 <= found["calibration"]["auroc"] <= 1 and set(found["cues"]) == {*filter_audit.CUES, "all"}
        assert found["pairs"] and found["distances"]["kept"]["frechet"][0] > 0
    monkeypatch.setattr(filter_audit, "STORED", tmp_path)
    (tmp_path / "small.json").write_text(json.dumps(results), encoding="utf-8")
    assert "| AUROC | " in filter_audit.write_page() and "## small" in filter_audit.write_page()
