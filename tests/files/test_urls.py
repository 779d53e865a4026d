"""Runs, stores and patches behind URLs: on a server that speaks S3, and in fsspec's memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

import synthpipe
from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import StoreSection
from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS, export
from synthpipe.files.locations import Location, parse_location
from synthpipe.files.writing import stream_atomically, write_atomically
from synthpipe.patches.catalog import load_catalog, read_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.patches.pixels import read_bytes
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory, write_json
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import CANDIDATE_ARRAYS, array, create_group, ensure_arrays, open_group
from synthpipe.storage.shard_writing import ShardWriter, commit, write_shard
from synthpipe.storage.shards import complete_shards, object_path, stored_at
from tests.conftest import DEMO, SMALL, once, pipeline
from tests.export.conftest import noise


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server that speaks S3, and return the URL of an empty bucket on it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    s3fs.S3FileSystem.clear_instance_cache()  # of tests before, which asked another server
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.kill()
        server.wait()
        for name in environment.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: before[name] for name in environment.keys() & before.keys()})
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://bucket"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["s3", "memory"])
def bucket(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return few patches: each costs requests to a slow server."""
    spec = PhantomSpec(slides=6, patches=45, size=48, images=0)
    return once(tmp_path_factory, "few-patches", lambda folder: write_phantom(folder, spec))


def test_sets_of_the_same_fingerprint_are_put_aside_side_by_side(bucket: str) -> None:
    run = RunDirectory(parse_location(f"{bucket}/aside"))
    about = {"name": "any", "fingerprint": "01234567" * 8, "catalog_digest": "", "versions": {}, "pipeline": {}}
    write_json(run.run_file, {"format_version": 1, **about})
    # what a process that was killed had copied so far: it is gone on with
    (run.path / "curated-01234567.zarr" / "image" / "c.0").write_bytes(b"first")
    names = []
    for content in (b"first", b"second"):
        for name, data in (("zarr.json", b"{}"), ("image/c.0", content)):
            (run.curated / name).write_bytes(data)
        aside = run.set_curated_aside()
        assert not run.curated.exists() and (aside / "image" / "c.0").read_bytes() == content
        names.append(aside.name)
    assert names == ["curated-01234567.zarr", "curated-01234567-2.zarr"]
    assert (run.path / names[0] / "image" / "c.0").read_bytes() == b"first"


def test_what_a_user_writes_is_a_path_or_a_url(tmp_path: Path) -> None:
    assert parse_location("runs/demo") == Path("runs/demo") and isinstance(parse_location("runs/demo"), Path)
    assert parse_location(f"file://{tmp_path}") == tmp_path
    assert parse_location("slide::1/a.png") == Path("slide::1/a.png")
    assert str(parse_location("memory://a/b")) == "memory://a/b"
    assert pickle.loads(pickle.dumps(parse_location("memory://a/b"))) == parse_location("memory://a/b")
    with pytest.raises(StoreError, match=r"nope://x: .*expected a path, or a URL such as s3://bucket/run"):
        parse_location("nope://x")
    with pytest.raises(CatalogError, match="cannot be read: nope://x: "):
        read_bytes("nope://x")


def test_files_are_replaced_as_a_whole(bucket: str) -> None:
    path = parse_location(f"{bucket}/folder/file.json")
    write_atomically(path, "one")
    write_atomically(path, b"another")
    assert path.read_bytes() == b"another"
    assert [child.name for child in path.parent.iterdir()] == ["file.json"]


def stored(path: Location, images: np.ndarray[Any, Any], masks: np.ndarray[Any, Any]) -> Any:
    """Write two shards of composites, the second through blocks."""
    group = create_group(path, "mosaic", {"format_version": 1})
    create_group(path, "", {"format_version": 1})
    sizes = {"sample": 7, "y": 64, "x": 500, "channel": 3, "class_or_background": 4, "donor_use": 2}
    ensure_arrays(group, CANDIDATE_ARRAYS, sizes, StoreSection(shard=4))
    for name, values in (("image", images), ("mask", masks)):
        write_shard(array(group, name), 0, values[:4])
        with ShardWriter(array(group, name), 1) as writer:
            for start in (4, 6):
                with writer.block(2) as block:
                    block[:] = values[start : start + 2]
            writer.finish()
            commit(writer)
    return open_group(path, "mosaic")


def total(reader: SampleReader, sample: int) -> int:
    return int(reader[sample].astype(np.int64).sum())


def test_shards_behind_a_url_have_the_bytes_of_those_on_a_disk(bucket: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 64, 500, 3), dtype=np.uint8)
    masks = rng.integers(0, 3, (8, 64, 500), dtype=np.uint8)
    here, there = stored(tmp_path / "a.zarr", images, masks), stored(parse_location(f"{bucket}/a.zarr"), images, masks)
    for name, values in (("image", images), ("mask", masks)):
        assert complete_shards(array(there, name)) == {0, 1}
        for shard in (0, 1):
            path = object_path(array(there, name), shard)
            assert isinstance(path, UPath)
            assert path.read_bytes() == object_path(array(here, name), shard).read_bytes()
        reader = SampleReader(array(there, name))
        assert np.array_equal(reader.read_many([6, 0, 3, 6]), values[[6, 0, 3, 6]])
        assert np.array_equal(reader[5], values[5])
        assert np.array_equal(array(there, name)[:], values[:7])
    assert np.array_equal(SampleReader(array(there, "mask"))[2], masks[2])


def test_one_listing_tells_when_shards_appeared(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, asked, begun = np.zeros((8, 64, 500, 3), np.uint8), list[str](), time.time()
    groups = [
        stored(place, values, values[..., 0]) for place in (parse_location(f"{bucket}/t.zarr"), tmp_path / "t.zarr")
    ]
    arrays = [(array(group, "mask"), array(group, "class_pixels")) for group in groups]
    ask = s3fs.S3FileSystem._call_s3

    async def counted(self: s3fs.S3FileSystem, method: str, *rest: Any, **more: Any) -> Any:
        asked.append(method)
        return await ask(self, method, *rest, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    for full, empty in arrays:
        times = stored_at(full)
        assert times.keys() == {0, 1} and all(begun - 2 < found < time.time() + 2 for found in times.values())
        assert stored_at(empty) == {}
    assert "head_object" not in asked, "one listing for all, not a request for each"


def test_a_shard_that_is_not_committed_leaves_nothing(bucket: str) -> None:
    values = np.zeros((8, 64, 500, 3), np.uint8)
    group = stored(parse_location(f"{bucket}/b.zarr"), values, values[..., 0])
    target = array(group, "image")
    object_path(target, 1).unlink()
    with pytest.raises(KeyboardInterrupt), ShardWriter(target, 1) as writer:
        writer.write(values[:4])
        writer.finish()
        writer.wait()
        raise KeyboardInterrupt
    assert complete_shards(target) == {0}
    with pytest.raises(StoreError, match=r"b\.zarr/mosaic/image/c\.1\.0\.0\.0: the file is missing"):
        SampleReader(target)[5]


def test_damage_behind_a_url_is_named(bucket: str) -> None:
    values = np.ones((8, 64, 500, 3), np.uint8)
    target = array(stored(parse_location(f"{bucket}/c.zarr"), values, values[..., 0]), "image")
    path = object_path(target, 0)
    data = bytearray(path.read_bytes())
    data[100_000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"c\.zarr/mosaic/image/c\.0\.0\.0\.0: sample 1 is damaged: the checksum"):
        SampleReader(target)[1]
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match=r"c\.0\.0\.0\.0: damaged: the index of the shard is incomplete"):
        SampleReader(target)[1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_share_a_reader(s3: str, method: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (8, 64, 500, 3), dtype=np.uint8)
    reader = SampleReader(array(stored(parse_location(f"{s3}/{method}.zarr"), values, values[..., 0]), "image"))
    expected = [total(reader, sample) for sample in range(4)]
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(total, [reader] * 4, range(4), timeout=60)) == expected


def test_catalogs_of_patches_behind_a_url_are_the_same(bucket: str, patches: Path) -> None:
    settings = pipeline(f"patches.root={patches}")
    here = read_catalog(settings.patches, settings.taxonomy)
    root = parse_location(f"{bucket}/phantom")
    for path in (patches / "1.training").iterdir():
        (root / "1.training" / path.name).write_bytes(path.read_bytes())
    (root / "1.training" / ".hidden-[1, 0, 0].png").write_bytes(b"")
    there = read_catalog(settings.patches.model_copy(update={"root": str(root)}), settings.taxonomy)
    assert there.digest == here.digest
    assert there.patches[0].path == f"{bucket}/phantom/1.training/{here.patches[0].id}"
    table = parse_location(f"{bucket}/table.csv")
    rows = [f'"phantom/1.training/{patch.id}",{settings.taxonomy.names[patch.classes[0]]}' for patch in here.donors[:3]]
    rows.append(f'"{root}/1.training/{here.donors[3].id}",{settings.taxonomy.names[here.donors[3].classes[0]]}')
    table.write_text("\n".join(["path,labels", *rows]))
    section = settings.patches.model_copy(update={"root": str(table), "layout": "csv", "group_pattern": None})
    assert {patch.sha256 for patch in read_catalog(section, settings.taxonomy).patches} == {
        patch.sha256 for patch in here.donors[:4]
    }
    missing = settings.patches.model_copy(update={"root": f"{bucket}/nowhere"})
    with pytest.raises(CatalogError, match=r"nowhere: is empty or missing, expected the data set's folder"):
        read_catalog(missing, settings.taxonomy)


def objects(path: Location) -> dict[str, bytes]:
    """Return the bytes of every object of a run but its journal and report, whose seconds differ."""
    if isinstance(path, Path):
        found = {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    else:
        found = {name.removeprefix(f"{path.path}/"): path.fs.cat_file(name) for name in path.fs.find(path.path)}
    timed = ("build.json", "SHA256SUMS", "filter/mosaic.json", "filter/bezier.json", "report.html", ".lock")
    return {name: data for name, data in found.items() if name not in timed}


@pytest.mark.parametrize("bucket", [pytest.param("s3", marks=pytest.mark.slow), "memory"], indirect=True)
def test_a_build_behind_urls_makes_the_same_bytes(bucket: str, patches: Path, tmp_path: Path) -> None:
    """Patches and run on S3 or in memory; then shards are lost, and made again: on S3 by a worker process."""
    root = parse_location(f"{bucket}/patches")
    for path in (patches / "1.training").iterdir():
        (root / "1.training" / path.name).write_bytes(path.read_bytes())
    few_objects = (*SMALL, "store.shard=16")  # each is some requests to a slow server
    here = pipeline(*few_objects, f"patches.root={patches}")
    there = pipeline(*few_objects, f"patches.root={root}")
    build(here, tmp_path / "run", ClusterSettings(Local(0)), LogReporter())
    run = parse_location(f"{bucket}/runs/one")
    build(there, run, ClusterSettings(Local(0)), LogReporter())
    local, remote = objects(tmp_path / "run"), objects(run)
    assert remote.keys() == local.keys()
    differing = {name for name in local if local[name] != remote[name]} - {"run.json", "catalog.csv"}
    assert not differing
    settings = [json.loads(each["run.json"]) for each in (local, remote)]
    assert settings[0]["catalog_digest"] == settings[1]["catalog_digest"]
    assert load_catalog(run, there.taxonomy).digest == load_catalog(tmp_path / "run", here.taxonomy).digest
    curated, other = CuratedSet(f"{bucket}/runs/one/curated.zarr"), CuratedSet(tmp_path / "run" / "curated.zarr")
    assert all(map(np.array_equal, curated.read([23, 0, 5]), other.read([23, 0, 5])))
    assert curated.digest == other.digest
    opened = synthpipe.open_run(f"{bucket}/runs/one")
    assert f"<b>{bucket}/runs/one/curated.zarr</b>: 24 samples" in opened._repr_html_()
    assert np.array_equal(
        opened.candidate("bezier", 3).mask, synthpipe.open_run(tmp_path / "run").candidate("bezier", 3).mask
    )
    assert np.array_equal(curated.to_xarray().image[5], other[5].image)
    assert np.array_equal(curated.to_napari()[1][0][5], other[5].mask)
    for name in ("candidates.zarr/mosaic/image/c.1.0.0.0", "curated.zarr/mask/c.0.0.0", "build.json"):
        (run / name).unlink()
    build(there, run, ClusterSettings(Local(1)), LogReporter())
    assert objects(run) == remote


def test_commands_take_urls(s3: str, patches: Path, tmp_path: Path) -> None:
    run = f"{s3}/runs/unfiltered"
    options = [
        part
        for each in (*SMALL, "filter.enabled=false", "bezier=null", f"patches.root={patches}")
        for part in ("--set", each)
    ]
    for command, expected in {
        ("build", str(DEMO), *options, "-o", run, "--workers", "0"): f"{run}: a curated set of 12 composites",
        ("inspect", run): f"{run}: run of demo, finished",
        ("status", run): "finished",
        ("verify", run): "sound",
        ("doctor", f"{s3}/runs"): "synthpipe can work here",
        ("inspect", f"{run}/curated.zarr"): "12 x 32 x 32 x 3",
        ("replay", run, "mosaic", "3", "-o", str(tmp_path / "3.png")): "equal to the stored pixels",
        ("index", str(patches), "--layout", "wsss4luad"): "45 patches of",
    }.items():
        result = CliRunner().invoke(main, list(command))
        assert result.exit_code == 0, result.output
        assert expected in result.output
    result = CliRunner().invoke(main, ["inspect", f"{s3}/runs/nothing"])
    assert result.exit_code == 1 and f"{s3}/runs/nothing: the path does not exist" in result.output
    result = CliRunner().invoke(main, ["inspect", "s4://x"])
    assert result.exit_code == 2 and "s4://x" in result.output


def test_a_store_that_does_not_answer_is_an_error_with_its_address(s3: str) -> None:
    code = "import sys; from synthpipe.cli import main; main()"
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code, "inspect", f"{s3}/runs/one"],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert "Error: s3://bucket/runs/one/run.json: cannot be read: Could not connect" in found.stderr
    assert "check the address and the network" in found.stderr and "credentials" not in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form == "png" else pytest.mark.slow) for form in FORMS]
)
def test_an_export_goes_to_a_bucket_with_the_same_bytes(form: str, s3: str, tmp_path: Path) -> None:
    curated, there = noise(tmp_path / "set.zarr"), parse_location(f"{s3}/exports/{form}")
    for place in (there, tmp_path / "here"):
        found = export(curated, form, place, LogReporter(), part=5, workers=0)
        assert found.composites == 12 and found.kept == 0 and found.read_back
    here = {str(path.relative_to(tmp_path / "here")): path for path in (tmp_path / "here").rglob("*") if path.is_file()}
    for name in here.keys() - {".lock", "export.json"}:  # the ledger names what read the parts back
        assert (there / name).read_bytes() == here[name].read_bytes()
    assert export(curated, form, there, LogReporter(), part=5, workers=0).kept == 3


def test_a_large_file_is_uploaded_in_parts_or_not_at_all(s3: str) -> None:
    place = parse_location(f"{s3}/large.json")
    parts = [bytes([number]) * (1 << 20) for number in range(96)]
    tracemalloc.start()
    stream_atomically(place, parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert place.read_bytes() == b"".join(parts)
    assert peak < 64 << 20

    def broken() -> Iterator[bytes]:
        yield from parts[:40]
        raise StoreError("no more")

    with pytest.raises(StoreError, match="no more"):
        stream_atomically(place, broken())
    assert place.stat().st_size == 96 << 20
    stream_atomically(place, [b"small"])
    assert place.read_bytes() == b"small"
