"""Virtual composites: a build without pixels, and reading that renders them, give the composites of a stored build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthpipe import open_curated
from synthpipe.build import build
from synthpipe.core.progress import Silent
from synthpipe.core.records import Strategy
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore
from tests.conftest import SMALL, once, pipeline

STRATEGIES: tuple[Strategy, ...] = ("mosaic", "bezier")
COLUMNS = ("class_pixels", "donors", "p_real", "verdict")
PLAIN = ("canvas=32", "mosaic.tile=16", "filter.enabled=false", "curation.wanted=20", "store.shard=8")
"""A build of a second, without a filter."""


def make(folder: Path, *overrides: str, workers: int = 0) -> Path:
    build(pipeline(*overrides), folder, ClusterSettings(Local(workers)), Silent())
    return folder


@pytest.fixture(scope="session")
def virtual_run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `small_run` without pixels; read only."""
    overrides = (*SMALL, f"patches.root={phantom}", "store.pixels=virtual")
    return once(tmp_path_factory, "virtual-run", lambda folder: make(folder, *overrides))


def columns(run: Path, *names: str) -> dict[str, list[object]]:
    stores = {each: CompositeStore.open(RunDirectory(run).candidates, each) for each in STRATEGIES}
    return {
        f"{strategy} {name}": store.read(name, slice(0, store.length())).tolist()
        for strategy, store in stores.items()
        for name in names
    }


def test_a_virtual_build_differs_only_in_what_it_stores(small_run: Path, virtual_run: Path) -> None:
    names = (*COLUMNS, "recipe")
    assert columns(virtual_run, *names) == columns(small_run, *names)
    stored, virtual = open_curated(small_run), open_curated(virtual_run)
    assert virtual.digest == stored.digest and virtual.fingerprint == stored.fingerprint
    assert len(virtual) == len(stored) == 24
    assert [virtual.origin(number) for number in range(24)] == [stored.origin(number) for number in range(24)]
    for found, expected in zip(virtual.read(range(24)), stored.read(range(24)), strict=True):
        assert np.array_equal(found, expected)
    assert virtual[5] == stored[5] and virtual[5] in stored
    assert np.array_equal(virtual.class_pixels, stored.class_pixels)
    objects = [file.parent.name for file in virtual_run.glob("c*.zarr/**/c.*")]
    assert objects and not {"image", "mask"}.intersection(objects)
