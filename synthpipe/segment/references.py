"""What an mIoU is compared with: one class everywhere, and the baselines that were measured on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from synthpipe.core.strict_json import parse_json
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.files.reading import read_regular
from synthpipe.segment.metrics import Counts

BASELINES = {"test-labels": "image labels alone (lower bound)", "test-masks": "true masks (upper bound)"}
"""Folders of evaluations that `synthpipe baseline` writes, and what the networks knew."""

_MOST = 256 << 20  # bytes of an evaluation


def constant(confusion: Counts, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the ``class`` that has the highest mIoU where every pixel is predicted as it, and that ``miou``.

    It is the most frequent one: its IoU is its share of the counted pixels, that of the other classes 0.

    Parameters
    ----------
    confusion : (C, C) int64
        True classes in rows, with at least one pixel.
    taxonomy : Taxonomy
        The C classes.
    """
    true = confusion.sum(1)
    best = int(true.argmax())
    return {"class": taxonomy.names[best], "miou": float(true[best] / true.sum() / (true > 0).sum())}


def measured_baselines(result: Mapping[str, Any], folders: Iterable[Path]) -> Iterator[tuple[str, float]]:
    """Yield names and mIoU of the baselines in `folders` that were measured as `result` was.

    Parameters
    ----------
    result : mapping
        What ``metrics.json`` holds. Images, windows and classes must be the same; whatever cannot be read is passed
        over.
    folders : iterable of Path
        Folders that outputs of `synthpipe baseline` lie in.
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
