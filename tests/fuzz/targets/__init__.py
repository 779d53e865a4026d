"""The targets, by name: how many cases a full run has, and the class that makes and tries them."""

from __future__ import annotations

TARGETS: dict[str, tuple[int, str]] = {
    "labels": (1_000_000, "tests.fuzz.targets.labels:Labels"),
    "pipelines": (100_000, "tests.fuzz.targets.pipelines:Pipelines"),
    "images": (20_000, "tests.fuzz.targets.images:Images"),
    "stores": (5_000, "tests.fuzz.targets.stores:Stores"),
    "checkpoints": (500, "tests.fuzz.targets.checkpoints:Checkpoints"),
    "tables": (2_000, "tests.fuzz.targets.tables:Tables"),
}
