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
from synthpipe.segment.training import train
from synthpipe.segment.training_records import TrainingData
from tests.conftest import once, pipeline

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
    overrides = (
        "canvas=32",
        "mosaic.tile=16",
        "filter.enabled=false",
        "curation.wanted=12",
        "store.shard=8",
        "glass.min_area=80",
    )

    def make(folder: Path) -> None:
        write_phantom(folder / "phantom", PhantomSpec(slides=4, patches=40, size=48, images=2))
        chosen = pipeline(*overrides, f"patches.root={folder / 'phantom'}")
        build(chosen, folder / "run", ClusterSettings(Local(0)), LogReporter())

    directory = once(tmp_path_factory, "segment", make)
    return DataSet(directory / "phantom", directory / "run" / "curated.zarr")


@pytest.fixture(scope="session")
def curated(data_set: DataSet) -> Path:
    return data_set.curated


@pytest.fixture(scope="session")
def trained(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished training of `settings()`, shared by all processes of the test run; read only."""

    def make(folder: Path) -> None:
        outcome = train(settings(), data_set.training_data(), folder, CPU, LogReporter())
        assert outcome.finished and outcome.step == outcome.steps == 6

    return once(tmp_path_factory, "trained", make)


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
