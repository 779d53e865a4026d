"""A curated set of a real build, and sets of random patches of any layout and size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import Layout, PatchesSection
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.curated import CuratedSet, Description, begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.export import Exported, export
from synthpipe.files.locations import Location
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from tests.conftest import once, pipeline

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

CLASSES = (
    TissueClass("tumour", (255, 0, 0)),
    TissueClass("stroma", (0, 255, 0)),
    TissueClass("lymphocytic infiltrate", (0, 0, 255)),
    TissueClass("necrosis", (153, 0, 255)),
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run without a filter; read only."""
    overrides = (
        *("canvas=[32, 36]", "mosaic.tile=[16, 18]", "glass.min_area=80"),
        *("filter.enabled=false", "curation.wanted=11", "store.shard=8"),
    )

    def make(folder: Path) -> None:
        write_phantom(folder / "phantom", PhantomSpec(slides=4, patches=40, size=48, images=1))
        settings = pipeline(*overrides, f"patches.root={folder / 'phantom'}")
        build(settings, folder / "run", ClusterSettings(Local(0)), LogReporter())

    return once(tmp_path_factory, "export-run", make) / "run"


@pytest.fixture(scope="session")
def curated(run: Path) -> CuratedSet:
    """Eleven Mosaics and eleven Beziers, with some glass, 32 by 36 pixels."""
    return CuratedSet(run / "curated.zarr")


def exported(curated: CuratedSet, form: str, folder: Location, part: int = 8, workers: int = 0) -> Exported:
    """Export a set in small parts, in this process unless `workers` are wanted."""
    return export(curated, form, folder, LogReporter(), part, workers)


@pytest.fixture(scope="session")
def exports(curated: CuratedSet, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the folder of a form with an export of `curated` by this process; read only."""

    def folder_of(form: str) -> Path:
        return once(tmp_path_factory, f"export-{form}", lambda folder: exported(curated, form, folder))

    return folder_of


def noise(
    path: Path, layout: Layout = "bcss-wsss", count: int = 12, classes: int = 4, size: tuple[int, int] = (24, 20)
) -> CuratedSet:
    """Write a set of patches with random pixels and masks; some masks are background except for a corner."""
    taxonomy, rng = Taxonomy(CLASSES[:classes]), np.random.default_rng(3)
    about = Description(taxonomy, size, "f" * 64, PatchesSection(root=".", layout=layout), None)
    masks = rng.integers(0, classes + 1, (count, *size), np.uint8)
    masks[::3] = classes
    masks[:, -1, -1] = np.arange(count) % classes
    patches = []
    for number, mask in enumerate(masks):
        found = tuple(int(label) for label in np.unique(mask) if label < classes)
        patches.append(PatchRef(f"{number}.png", f"{number}.png", f"{number:064}", found, *size, f"slide{number % 3}"))
    source = {"patches": "noise", "checkpoint": "c" * 64}
    for shard, positions in begin_pseudo_labelled(path, about, source, patches).items():
        images = rng.integers(0, 256, (len(positions), *size, 3), np.uint8)
        part = slice(positions.start, positions.stop)
        write_pseudo_labelled(path, shard, patches[part], images, masks[part])
    return CuratedSet(path)
