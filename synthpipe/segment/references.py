"""Reference values for an mIoU: predicting one class everywhere, and baselines measured on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.reading import read_regular
from synthpipe.segment.metrics import Counts

BASELINES = {"test-labels": "image labels alone (lower bound)", "test-masks": "true masks (upper bound)"}
"""Evaluation folders that `synthpipe baseline` writes, with the data that their networks were trained on."""

_MOST = 256 << 20  # largest size of an evaluation in bytes


def constant(confusion: Counts, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the ``class`` and the ``miou`` of the best constant prediction, which gives all pixels the same class.

    The most frequent class is the best one: its IoU is its share of the counted pixels, and all other IoUs are 0.

    Parameters
    ----------
    confusion : (C, C) int64
        Confusion matrix with true classes in rows, and with at least one pixel.
    taxonomy : Taxonomy
        The C classes.
    """
    true = confusion.sum(1)
    best = int(true.argmax())
    return {"class": taxonomy.names[best], "miou": float(true[best] / true.sum() / (true > 0).sum())}


def measured_baselines(result: Mapping[str, Any], folders: Iterable[Path]) -> Iterator[tuple[str, float]]:
    """Yield the name and mIoU of each baseline that was measured with the same images, windows and classes.

    Parameters
    ----------
    result : mapping
        The content of ``metrics.json`` to compare with.
    folders : iterable of Path
        Folders that contain outputs of `synthpipe baseline`. Files that cannot be read are skipped.
    """
    for folder in dict.fromkeys(each.resolve() for each in folders):
        for found in sorted(folder.glob("*/baseline.json")):
            for name, what in BASELINES.items():
                try:
                    other = parse_json(read_regular(found.parent / name / "metrics.json", _MOST))
                    same = all(other[key] == result[key] for key in ("measured_on", "windows"))
                    same &= list(other["classes"]) == list(result["classes"])
                    if same and other["checkpoint"] != result["checkpoint"]:
                        yield f"{what}, {found.parent}", float(other["miou"])
                except (OSError, ValueError, KeyError, TypeError):
                    continue
