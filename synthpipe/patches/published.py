"""Folders, patterns and classes of the published data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synthpipe.config.pipeline import Layout


@dataclass(frozen=True, slots=True)
class Published:
    """Training folder, group pattern and classes of one published data set (method section 1)."""

    training: str
    group_pattern: str
    classes: tuple[str, ...]


PUBLISHED: Mapping[Layout, Published] = {
    "wsss4luad": Published("1.training", r"^([^-]+)-", ("tumour", "stroma", "normal")),
    "bcss-wsss": Published(
        "training", r"^(TCGA-[^-]+-[^-]+)", ("tumour", "stroma", "lymphocytic infiltrate", "necrosis")
    ),
    "luad-histoseg": Published(
        "train", r"^([^-]+)-", ("tumour epithelium", "necrosis", "lymphocyte", "tumour-associated stroma")
    ),
}
