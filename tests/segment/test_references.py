from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthpipe.segment.metrics import confusion_matrix, measure
from synthpipe.segment.references import constant, measured_baselines
from tests.conftest import pipeline

RESULT = {
    "checkpoint": "a",
    "measured_on": "images",
    "windows": {"size": [32, 32]},
    "classes": {"tumour": {}, "stroma": {}},
    "miou": 0.5,
}


def test_one_class_everywhere_is_measured_as_a_prediction_of_it_is() -> None:
    truth = np.random.default_rng(0).choice([0, 1, 3], (40, 40), p=[0.2, 0.5, 0.3]).astype(np.uint8)
    found = constant(confusion_matrix(truth, np.zeros_like(truth), 3), pipeline().taxonomy)
    scores = [measure(confusion_matrix(truth, np.full_like(truth, label), 3)).miou for label in range(3)]
    assert found == {"class": "stroma", "miou": pytest.approx(max(scores))}


def write(folder: Path, name: str, **changes: Any) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "baseline.json").write_text("{}")
    (folder / name / "metrics.json").write_text(json.dumps({**RESULT, "checkpoint": "b", **changes}))


def test_baselines_count_that_were_measured_alike(tmp_path: Path) -> None:
    write(tmp_path / "bounds", "test-labels", miou=0.25)
    write(tmp_path / "bounds", "test-masks", miou=0.75)
    write(tmp_path / "bounds", "test-1", miou=0.5)
    found = list(measured_baselines(RESULT, (tmp_path, tmp_path / "bounds" / "..")))
    lower, upper = "image labels alone (lower bound)", "true masks (upper bound)"
    assert found == [(f"{lower}, {tmp_path / 'bounds'}", 0.25), (f"{upper}, {tmp_path / 'bounds'}", 0.75)]


@pytest.mark.parametrize(
    "changes",
    [
        {"measured_on": "others"},
        {"windows": {}},
        {"classes": {"stroma": {}, "tumour": {}}},
        {"classes": {"tumour": {}, "stroma": {}, "normal": {}}},
        {"checkpoint": "a"},
        {"miou": None},
        {"miou": "much"},
    ],
)
def test_other_baselines_are_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path / "bounds", "test-labels", **changes)
    (tmp_path / "bounds" / "test-masks").mkdir()
    (tmp_path / "bounds" / "test-masks" / "metrics.json").write_text("[" * 100_000)
    assert not list(measured_baselines(RESULT, (tmp_path,)))
