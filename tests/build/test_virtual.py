"""Virtual composites: builds without pixels, and reading that renders them, give the composites of stored builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import DataLoader

from synthpipe import open_curated, open_run
from synthpipe.build import build
from synthpipe.build.status import status_of
from synthpipe.cli.main import main
from synthpipe.core.errors import ConfigError, StaleRunError, StoreError
from synthpipe.core.progress import Silent
from synthpipe.core.records import STRATEGIES
from synthpipe.curated import CuratedSet
from synthpipe.curated.device_batches import DeviceBatches
from synthpipe.curated.materializing import materialize
from synthpipe.curated.torch_data import Epochs
from synthpipe.report.stored import open_composites
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.donors import DonorStore, DonorTable
from synthpipe.storage.run import RunDirectory, read_json, write_json
from synthpipe.storage.schema import DONORS
from synthpipe.storage.stores import CompositeStore
from synthpipe.verification import repair, verify
from tests.conftest import ROOT, SMALL, once, pipeline

PLAIN = ("canvas=32", "mosaic.tile=16", "filter.enabled=false", "curation.wanted=20", "store.shard=8")
"""A build of a second, without a filter."""


def make(folder: Path, *overrides: str, workers: int = 0, extend: bool = False) -> Path:
    build(pipeline(*overrides), folder, ClusterSettings(Local(workers)), Silent(), extend)
    return folder


def tree(folder: Path, *among: str) -> dict[str, bytes]:
    """Return the bytes of the files below a folder, or of those below its folders `among`."""
    roots = [folder / name for name in among] or [folder]
    return {
        str(file.relative_to(folder)): file.read_bytes() for root in roots for file in root.rglob("*") if file.is_file()
    }


@pytest.fixture(scope="session")
def virtual_run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `small_run` without pixels; read only."""
    overrides = (*SMALL, f"patches.root={phantom}", "store.pixels=virtual")
    return once(tmp_path_factory, "virtual-run", lambda folder: make(folder, *overrides))


@pytest.fixture(scope="session")
def plain_run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual run without a filter and without recipes; read only."""
    overrides = (*PLAIN, f"patches.root={phantom}", "store.pixels=virtual", "store.recipes=false")
    return once(tmp_path_factory, "plain-run", lambda folder: make(folder, *overrides))


def columns(run: Path, *names: str) -> dict[str, list[object]]:
    stores = {each: CompositeStore.open(RunDirectory(run).candidates, each) for each in STRATEGIES}
    return {
        f"{strategy} {name}": store.read(name, slice(0, store.length())).tolist()
        for strategy, store in stores.items()
        for name in names
    }


def test_a_virtual_build_differs_only_in_what_it_stores(small_run: Path, virtual_run: Path) -> None:
    names = ("class_pixels", "donors", "p_real", "verdict", "recipe")
    assert columns(virtual_run, *names) == columns(small_run, *names)
    stored, virtual = open_curated(small_run), open_curated(virtual_run)
    assert virtual.digest == stored.digest and virtual.fingerprint == stored.fingerprint
    origins = [[each.origin(number) for number in range(24)] for each in (virtual, stored)]
    assert origins[0] == origins[1]
    for found, expected in zip(virtual.read(range(24)), stored.read(range(24)), strict=True):
        assert np.array_equal(found, expected)
    assert virtual[5] == stored[5] and virtual[5] in stored
    assert np.array_equal(virtual.class_pixels, stored.class_pixels)
    assert virtual.split({"train": 0.5, "validation": 0.5}, by="sample")["train"][0] in virtual
    objects = {
        file.parent.name for name in ("candidates.zarr", "curated.zarr") for file in virtual_run.glob(f"{name}/**/c.*")
    }
    assert "pixels" in objects and not {"image", "mask"} & objects


@pytest.mark.parametrize("recipes", ["true", "false"])
def test_materialized_pixels_have_the_bytes_of_a_stored_build(phantom: Path, tmp_path: Path, recipes: str) -> None:
    overrides = (*PLAIN, f"patches.root={phantom}", f"store.recipes={recipes}")
    stored = make(tmp_path / "stored", *overrides)
    virtual = make(tmp_path / "virtual", *overrides, "store.pixels=virtual")
    path = tmp_path / "set.zarr"
    materialize(open_curated(virtual), path, Silent())
    assert tree(path) == tree(stored / "curated.zarr")
    with pytest.raises(ConfigError, match="its pixels are stored already"):
        materialize(open_curated(path), tmp_path / "again.zarr", Silent())
    (path / "image" / "c.1.0.0.0").unlink()
    materialize(open_curated(virtual), path, Silent())
    assert tree(path) == tree(stored / "curated.zarr")
    with pytest.raises(StaleRunError, match="holds another set"):
        materialize(open_curated(virtual), virtual / "curated.zarr", Silent())


def test_the_number_of_workers_does_not_change_a_virtual_run(phantom: Path, plain_run: Path, tmp_path: Path) -> None:
    overrides = (*PLAIN, f"patches.root={phantom}", "store.pixels=virtual", "store.recipes=false")
    run = make(tmp_path / "run", *overrides, workers=2)
    stores = ("candidates.zarr", "curated.zarr")
    assert tree(run, *stores) == tree(plain_run, *stores)


def test_donors_that_sampling_rejects_for_their_glass_are_stored_too(phantom: Path, tmp_path: Path) -> None:
    glass = ("glass.threshold=190", "glass.min_area=4", "glass.max_share=0.05", "glass.max_draws=50")
    overrides = (*PLAIN, f"patches.root={phantom}", "curation.wanted=8", "curation.min_classes=1", *glass)
    stored = open_curated(make(tmp_path / "stored", *overrides))
    run = make(tmp_path / "virtual", *overrides, "store.pixels=virtual")
    for found, expected in zip(open_curated(run).read(range(16)), stored.read(range(16)), strict=True):
        assert np.array_equal(found, expected)
    table = DonorStore.open(run / "curated.zarr", "donors").table
    used = {number for each in columns(run, "donors").values() for row in each for number in row}  # type: ignore[attr-defined]
    assert len(used) < table.stored


def test_an_extension_gives_the_run_that_a_build_from_the_beginning_gives(
    phantom: Path, plain_run: Path, tmp_path: Path
) -> None:
    more = (*PLAIN, f"patches.root={phantom}", "store.pixels=virtual", "store.recipes=false", "curation.wanted=30")
    run = Path(shutil.copytree(plain_run, tmp_path / "run"))
    former = open_curated(run).digest
    make(run, *more, extend=True)
    (aside,) = run.glob("curated-*.zarr")
    assert open_curated(aside).digest == former and len(open_curated(aside)[39].image) == 32
    fresh = make(tmp_path / "fresh", *more)
    assert tree(run, "curated.zarr") == tree(fresh, "curated.zarr")


def test_a_resumed_build_replaces_donors_of_an_earlier_set(phantom: Path, plain_run: Path, tmp_path: Path) -> None:
    run, settings = Path(shutil.copytree(plain_run, tmp_path / "run")), pipeline().store
    store = DonorStore.open(run / "curated.zarr", DONORS, writable=True)
    earlier = DonorTable(store.table.donors, store.table.stored - 1, store.table.canvas)
    store.remove()
    store = DonorStore.create(run / "curated.zarr", earlier, settings)
    for shard in store.missing_shards(earlier.rows()):
        store.write_pixels(shard, np.zeros(0, np.uint32))
    RunDirectory(run).reopen()
    make(run, *PLAIN, f"patches.root={phantom}", "store.pixels=virtual", "store.recipes=false")
    assert tree(run, "curated.zarr") == tree(plain_run, "curated.zarr")


def test_pixels_cannot_change_their_storage_in_a_run(phantom: Path, plain_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(plain_run, tmp_path / "run"))
    with pytest.raises(StaleRunError, match=r'store\.pixels: "virtual" -> "stored"'):
        make(run, *PLAIN, f"patches.root={phantom}")


def test_lost_and_damaged_objects_are_found_and_made_again(plain_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(plain_run, tmp_path / "run"))
    assert not verify(run, 4, Silent()).faults
    (run / "candidates.zarr/mosaic/class_pixels/c.1.0").unlink()
    damaged = run / "curated.zarr/donors/pixels/c.0.0"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (run / "curated.zarr/labels/c.0.0").unlink()
    found = {f"{fault.path.parent.name}/{fault.path.name}" for fault in verify(run, 4, Silent()).faults}
    assert found == {"class_pixels/c.1.0", "pixels/c.0.0", "labels/c.0.0"}
    assert not repair(run, 4, 0, Silent()).faults
    assert tree(run, "candidates.zarr", "curated.zarr") == tree(plain_run, "candidates.zarr", "curated.zarr")


def test_a_wrong_table_of_donors_is_stored_again(plain_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(plain_run, tmp_path / "run"))
    metadata = run / "curated.zarr/donors/zarr.json"
    fields = read_json(metadata)
    fields["attributes"]["table"]["label"][0] ^= 1
    write_json(metadata, fields)
    (fault,) = verify(run, 0, Silent()).faults
    assert fault.path == metadata and "a table that differs from the catalog" in fault.found
    assert not repair(run, 0, 0, Silent()).faults
    assert tree(run, "curated.zarr") == tree(plain_run, "curated.zarr")


def test_a_resumed_virtual_build_rejects_other_columns(phantom: Path, plain_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(plain_run, tmp_path / "run"))
    store = CompositeStore.open(run / "candidates.zarr", "mosaic", writable=True)
    changed = store.class_pixels(slice(0, 8))
    changed[0, :2] += [1, -1]
    with store.writing(0, ["class_pixels"]) as writers:
        writers["class_pixels"].write(changed)
        writers["class_pixels"].finish()
    (run / "SHA256SUMS").unlink()
    overrides = (*PLAIN, f"patches.root={phantom}", "store.pixels=virtual", "store.recipes=false")
    with pytest.raises(StaleRunError, match="the installed packages render different pixels"):
        make(run, *overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler_version": 2}, "version 2 of the sampler made these composites, but this synthpipe has version 1"),
        ({"settings": {"seed": -1}}, "damaged: attributes.settings: .* mistakes"),
        ({"pixels": "elsewhere"}, "damaged: attributes.pixels"),
    ],
)
def test_a_set_of_another_sampler_or_settings_is_refused(
    plain_run: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = Path(shutil.copytree(plain_run / "curated.zarr", tmp_path / "set.zarr"))
    fields = read_json(path / "zarr.json")
    fields["attributes"] |= change
    write_json(path / "zarr.json", fields)
    with pytest.raises(StoreError, match=message):
        CuratedSet(path)


def test_donors_that_are_missing_or_damaged_are_named(plain_run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(plain_run / "curated.zarr", tmp_path / "set.zarr"))
    pixels = path / "donors" / "pixels" / "c.0.0"
    stored = pixels.read_bytes()
    pixels.write_bytes(stored[:100] + bytes(8) + stored[108:])
    with pytest.raises(StoreError, match=r"pixels.c\.0\.0: damaged: the checksum is wrong"):
        CuratedSet(path)[0]
    opened = CuratedSet(path)
    pixels.unlink()
    with pytest.raises(StoreError, match=r"donors.pixels.c\.0\.0: is missing"):
        opened[0]
    with pytest.raises(StoreError, match=r"1 objects are missing, for example donors/pixels.c\.0\.0"):
        CuratedSet(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0]}, "damaged: bezier 0 cannot be rendered"),
        ({"height": [7]}, "damaged: its donors have .* pixels; expected shape"),
        ({"id": ["same"]}, "damaged: attributes.table names a donor twice"),
        ({"label": [200]}, "damaged: attributes.table has a class that the set does not have"),
        ({"width": [0]}, "damaged: attributes.table.width"),
    ],
)
def test_a_forged_table_of_donors_is_refused(
    plain_run: Path, tmp_path: Path, change: dict[str, list[object]], message: str
) -> None:
    path = Path(shutil.copytree(plain_run / "curated.zarr", tmp_path / "set.zarr"))
    metadata = path / "donors" / "zarr.json"
    fields = read_json(metadata)
    table = fields["attributes"]["table"]
    table |= {name: value * len(table["id"]) for name, value in change.items()}
    write_json(metadata, fields)
    with pytest.raises(StoreError, match=message):
        CuratedSet(path)[20]


def test_an_origin_whose_donors_are_not_stored_is_refused(phantom: Path, tmp_path: Path) -> None:
    overrides = (*PLAIN, f"patches.root={phantom}", "mosaic=null", "curation.wanted=2", "store.pixels=virtual")
    run = make(tmp_path / "run", *overrides)
    metadata = read_json(run / "curated.zarr/donors/zarr.json")
    assert metadata["attributes"]["stored"] < len(metadata["attributes"]["table"]["id"])
    found = open_curated(run)
    found._pixels._origins[:] = range(500, 502)  # type: ignore[attr-defined]  # as a stranger's set may say
    with pytest.raises(StoreError, match=r"bezier 50[01] cannot be rendered: the set has no pixels of its donor"):
        found.read([0, 1])
    with pytest.raises(StoreError, match="no bezier candidate 500"):
        open_run(run).candidate("bezier", 500)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_of_a_loader_render_the_same_composites(virtual_run: Path, small_run: Path, context: str) -> None:
    batches = [
        next(
            iter(
                DataLoader(
                    data, batch_size=24, num_workers=workers, multiprocessing_context=method, collate_fn=data.collate
                )
            )
        )
        for data, workers, method in (
            (open_curated(virtual_run).to_torch(), 2, context),
            (open_curated(small_run).to_torch(), 0, None),
        )
    ]
    assert all(np.array_equal(batches[0][name], batches[1][name]) for name in ("image", "mask", "labels"))


def test_reports_inspections_and_replays_render_virtual_composites(virtual_run: Path, small_run: Path) -> None:
    for store in ("", "candidates.zarr/mosaic", "filter/training.zarr/bezier"):
        shown, expected = (open_composites(run / store)[3] for run in (virtual_run, small_run))
        assert np.array_equal(shown.image, expected.image) and shown.recipe == expected.recipe
    assert open_run(virtual_run).candidate("mosaic", 3) == open_run(small_run).candidate("mosaic", 3)
    pages = [(run / "report.html").read_text().count("data:image/jpeg") for run in (virtual_run, small_run)]
    assert 0 < pages[0] <= pages[1]
    status = status_of(virtual_run)
    assert status["finished"] and all(entry["done"] == entry["planned"] for entry in status["progress"])


def test_commands_know_virtual_runs(plain_run: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.output

    assert "equal to the stored class counts" in run("replay", plain_run, "bezier", 3, "-o", tmp_path / "3.png")
    assert "sound" in run("verify", plain_run, "--sample", 2)
    assert "pixels" in run("inspect", plain_run)
    assert "slides or patients: 6 of 6 used" in run("inspect", plain_run / "curated.zarr")
    assert "40 composites with their pixels" in run("materialize", plain_run, "-o", tmp_path / "set.zarr")
    assert "40 composites as png" in run("export", plain_run, "--to", "png", "-o", tmp_path / "png", "--workers", 0)


def test_a_gpu_renders_for_scoring_and_loaders_in_the_simulator() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/build/on_a_gpu.py"]
    simulated = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=ROOT, env=simulated, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_a_device_excludes_workers_and_transforms(plain_run: Path) -> None:
    curated = CuratedSet(plain_run)
    with pytest.raises(ConfigError, match="device='cuda' with workers=2: one process makes the batches of a GPU"):
        curated.to_torch().loader(4, workers=2, device="cuda")
    with pytest.raises(ConfigError, match=r"device='cuda' with a transform: .*; leave out one of the two"):
        curated.to_torch(transform=dict).loader(4, device="cuda")
    assert len(list(curated.to_torch().loader(4, device="cpu"))) == len(curated) // 4


def test_stored_pixels_are_copied_to_the_device(small_run: Path) -> None:
    data = CuratedSet(small_run).to_torch()
    batches = list(DeviceBatches(data, Epochs(len(data), 3, seed=5), torch.device("cpu")))
    for one, other in zip(batches, data.loader(3, seed=5), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("image", "mask", "labels"))
