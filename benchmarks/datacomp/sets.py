"""The data sets, split into donors, validation and test images that share no slide or patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from benchmarks.datacomp.glas import TILE, Parts, by_grade, by_patient, write_parts
from synthpipe.config import pipeline_file
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import ConfigError
from synthpipe.curated import Description
from synthpipe.patches.catalog import Catalog, read_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.segment.masks import MaskedImage, digest_of, masked_images

PIPELINES = Path(__file__).parents[2] / "pipelines"
_PHANTOM = PhantomSpec(seed=1, slides=24, patches=800, size=64, images=24)


@dataclass(frozen=True)
class DataSet:
    """One data set on the disk.

    Attributes
    ----------
    name : str
        The key in `SETS`.
    pipeline : Path
        The pipeline file of all rows.
    patches : Path
        The source patches, as in ``patches.root``.
    train, validation, test : Path
        Folders with img/ and mask/: the donors' images, the images that choose weights, and the test images.
    overrides : tuple of str
        Keys of the pipeline file to replace in all rows.
    """

    name: str
    pipeline: Path
    patches: Path
    train: Path
    validation: Path
    test: Path
    overrides: tuple[str, ...] = ()

    def settings(self, *overrides: str) -> Pipeline:
        """Return the pipeline, with further keys replaced."""
        return pipeline_file.load(self.pipeline, (f"patches.root={self.patches}", *self.overrides, *overrides))

    def images(self, part: str) -> tuple[MaskedImage, ...]:
        """List the images of ``train``, ``validation`` or ``test``."""
        return masked_images(getattr(self, part))

    @cached_property
    def description(self) -> Description:
        """The description of images of this data set at the size of the composites."""
        settings = self.settings()
        return Description(settings.taxonomy, settings.canvas, settings.fingerprint(), settings.patches, settings.glass)

    @cached_property
    def catalog(self) -> Catalog:
        settings = self.settings()
        return read_catalog(settings.patches, settings.taxonomy)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the data that results depend on."""
        parts = {part: digest_of(self.images(part)) for part in ("train", "validation", "test")}
        return {**parts, "patches": self.catalog.digest}


def _glas(parts: Callable[[], Parts], name: str, data: Path | None, directory: Path) -> DataSet:
    if data is None:
        raise ConfigError(f"{name} needs the images of GlaS; name their folder with --data")
    folder = directory / name
    write_parts(data, folder, parts())
    canvas = (
        f"canvas={TILE}",
        f"mosaic.tile={TILE // 2}",  # a multiple of 32, because encoders halve the size five times
        "filter.enabled=true",  # rows without a filter replace this
    )
    train, validation, test = (folder / part for part in ("train", "validation", "test"))
    return DataSet(name, PIPELINES / "glas.yaml", folder / "patches", train, validation, test, canvas)


def _phantom(data: Path | None, directory: Path, spec: PhantomSpec = _PHANTOM) -> DataSet:
    folder = directory / "phantom"
    write_phantom(folder, spec)
    train, validation, test = (folder / part for part in ("masked", "2.validation", "3.testing"))
    return DataSet("phantom", PIPELINES / "demo.yaml", folder, train, validation, test)


SETS: Mapping[str, tuple[str, Callable[[Path | None, Path], DataSet]]] = {
    "glas": (
        "GlaS by patient: 49 images of 7 patients give donors, 10 of 4 choose weights, 26 of 4 are the test",
        partial(_glas, by_patient, "glas"),
    ),
    "glas-grade": (
        "GlaS by grade: benign glands of 6 patients give donors, of 2 choose weights, malignant ones of 7 are the test",
        partial(_glas, by_grade, "glas-grade"),
    ),
    "phantom": ("procedural tissue: 24 slides give donors, 24 choose weights, 24 are the test", _phantom),
}
"""The data sets by name: a description, and a function that makes the set from ``--data`` in a working folder."""
