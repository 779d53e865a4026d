"""A small data set and the curated set of a real build of it, for the segmentation stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from synthpipe.build import build
from synthpipe.cli.progress import LogReporter
from synthpipe.curated import CuratedSet, Description
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.segment.devices import Hardware
from synthpipe.segment.masks import masked_images
from synthpipe.segment.settings import TrainSettings
from synthpipe.segment.sources import Composites, RealPatches
from synthpipe.segment.training_records import TrainingData
from tests.conftest import pipeline

CPU = Hardware("cpu")


@dataclass(frozen=True)
class DataSet:
    """Forty phantom patches, two images with masks for validation; twelve Mosaics and twelve Beziers made of them."""

    root: Path
    curated: Path

    @property
    def validation(self) -> Path:
        return self.root / "2.validation"

    @property
    def description(self) -> Description:
        return CuratedSet(self.curated).description

    def catalog(self) -> Catalog:
        patches = self.description.patches.model_copy(update={"root": str(self.root)})
        return read_catalog(patches, self.description.taxonomy)

    def training_data(self) -> TrainingData:
        curated, catalog = CuratedSet(self.curated), self.catalog()
        return TrainingData(
            curated.description,
            Composites([curated]),
            RealPatches(catalog.patches, curated.description),
            masked_images(self.validation),
            {"curated 1": curated.digest, "real patches": catalog.digest},
        )


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    directory = tmp_path_factory.mktemp("segment")
    write_phantom(directory / "phantom", PhantomSpec(slides=4, patches=40, size=48, images=2))
    overrides = (
        "canvas=32",
        "mosaic.tile=16",
        "filter.enabled=false",
        "curation.wanted=12",
        "store.shard=8",
        "glass.min_area=80",
    )
    build(
        pipeline(*overrides, f"patches.root={directory / 'phantom'}"),
        directory / "run",
        ClusterSettings(Local(0)),
        LogReporter(),
    )
    return DataSet(directory / "phantom", directory / "run" / "curated.zarr")


@pytest.fixture(scope="session")
def curated(data_set: DataSet) -> Path:
    return data_set.curated


def settings(**changes: object) -> TrainSettings:
    """A training of seconds: two epochs of three steps of a small network."""
    small = {
        "network": {"architecture": "Unet", "encoder": "tu-test_resnet", "weights": None},
        "composites": 4,
        "real": 4,
        "epochs": 2,
        "steps_per_epoch": 3,
        "optimizer": {"learning_rate": 1e-3},
    }
    return TrainSettings.model_validate(small | changes)
