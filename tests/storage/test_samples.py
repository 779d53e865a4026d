from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from synthpipe.config.pipeline import StoreSection
from synthpipe.core.errors import StoreError
from synthpipe.storage import samples as samples_module
from synthpipe.storage.chunks import CHECKSUM_BYTES, checksum
from synthpipe.storage.samples import SampleReader
from synthpipe.storage.schema import array, open_group
from tests.storage.test_shards import SHARD, group_of, samples, write

COUNT = 10 * SHARD


@pytest.fixture(params=["none", "zstd", "blosc-lz4"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> zarr.Group:
    """Ten shards; the last sample lies beyond the array's length."""
    group = group_of(tmp_path / "s.zarr", COUNT - 1, StoreSection(shard=SHARD, image_codec=request.param))
    for shard in range(10):
        write(group, shard, samples(COUNT))
    return open_group(tmp_path / "s.zarr", "mosaic")


def test_samples_equal_those_of_zarr(group: zarr.Group) -> None:
    for name in ("image", "mask"):
        reader, expected = SampleReader(array(group, name)), np.asarray(array(group, name)[:])
        assert reader.shape == expected.shape and reader.dtype == expected.dtype and len(reader) == COUNT - 1
        order = np.random.default_rng(0).permutation(len(reader)).tolist()
        assert np.array_equal(reader.read_many(order), expected[order])
        assert np.array_equal(reader[-1], expected[-1])
        out = np.zeros((2, *reader.shape[1:]), np.uint8)
        assert reader.read_many([7, 7], out) is out and np.array_equal(out, expected[[7, 7]])
        for outside in (COUNT - 1, -COUNT):
            with pytest.raises(IndexError, match=f"no sample {outside}; there are {COUNT - 1}"):
                reader[outside]


def test_few_files_stay_open(group: zarr.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_OPEN_FILES", 3)
    reader = SampleReader(array(group, "image"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    expected = np.asarray(array(group, "image")[:])
    for sample in (*range(COUNT - 1), 0, 20, 3):
        assert np.array_equal(reader[sample], expected[sample])
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


def test_readers_of_many_sets_share_the_files_of_a_process(tmp_path: Path) -> None:
    """Forty readers of ten shards each: more files than there is room for, which is more than the bound, then less."""
    group = group_of(tmp_path / "s.zarr", COUNT, StoreSection(shard=SHARD))
    for shard in range(10):
        write(group, shard, samples(COUNT))
    code = """
import resource, sys
from pathlib import Path
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.samples import SampleReader
image = array(open_group(Path(sys.argv[1]), "mosaic"), "image")
readers = [SampleReader(image) for _ in range(40)]
for room in (300, 100):
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, 4096))
    for sample in range(len(readers[0])):
        assert len({int(reader[sample].sum()) for reader in readers}) == 1
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.zarr")], check=True)


def test_what_was_never_written_is_named(group: zarr.Group, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr/mosaic/image/c.1.0.0.0"
    content = path.read_bytes()
    path.unlink()
    reader = SampleReader(array(group, "image"))
    assert np.array_equal(reader[0], array(group, "image")[0])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"image/c\.1\.0\.0\.0: the file is missing; .*restore this object"):
            reader[SHARD]
    path.write_bytes(content)  # another process makes it
    assert np.array_equal(reader[SHARD], array(group, "image")[SHARD])
    checked, plain = (
        zarr.create_array(
            tmp_path / name, shape=(8, 2), chunks=(1, 2), shards=(8, 2), dtype="u1", fill_value=9, compressors=codecs
        )
        for name, codecs in (("checked.zarr", [zarr.codecs.Crc32cCodec()]), ("plain.zarr", None))
    )
    checked[3] = 1
    assert SampleReader(checked)[3].tolist() == [1, 1]
    with pytest.raises(StoreError, match=r"checked\.zarr/c/0/0: sample 4 is damaged: the sample was never written"):
        SampleReader(checked)[4]
    with pytest.raises(StoreError, match="expected those that `synthpipe build` uses"):
        SampleReader(plain)


@pytest.mark.parametrize("place", [0.05, 0.5, 0.999])
def test_damage_is_found_and_named(group: zarr.Group, tmp_path: Path, place: float) -> None:
    path = tmp_path / "s.zarr/mosaic/image/c.2.0.0.0"
    damaged = bytearray(path.read_bytes())
    damaged[int(place * len(damaged))] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"image/c\.2\.0\.0\.0: .*damaged.*remove it and repeat the command"):
        SampleReader(array(group, "image")).read_many(range(2 * SHARD, 3 * SHARD))


@pytest.mark.parametrize("left", [0, 30, 150])
def test_a_cut_off_shard_is_found(group: zarr.Group, tmp_path: Path, left: int) -> None:
    path = tmp_path / "s.zarr/mosaic/image/c.0.0.0.0"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(StoreError, match=r"image/c\.0\.0\.0\.0: .*damaged"):
        SampleReader(array(group, "image"))[0]


def total(reader: SampleReader, sample: int) -> int:
    return int(reader[sample].sum())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_readers_go_to_other_processes_after_use(group: zarr.Group, method: str) -> None:
    reader = SampleReader(array(group, "image"))
    expected = [total(reader, sample) for sample in range(COUNT - 1)]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(total, [reader] * len(expected), range(len(expected)), timeout=60)) == expected
    assert total(pickle.loads(pickle.dumps(reader)), 3) == expected[3]


def test_threads_share_a_reader(group: zarr.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_OPEN_FILES", 1)
    reader, expected = SampleReader(array(group, "image")), np.asarray(array(group, "image")[:])
    order = np.random.default_rng(0).integers(0, COUNT - 1, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        for sample, found in zip(order, pool.map(reader.__getitem__, order), strict=True):
            assert np.array_equal(found, expected[sample])


def test_arrays_of_another_cut_are_refused(group: zarr.Group) -> None:
    with pytest.raises(StoreError, match="class_pixels: expected a sharded array with one sample per chunk"):
        SampleReader(array(group, "class_pixels"))
    elsewhere = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(4, 2), chunks=(1, 2), shards=(4, 2), dtype="u1", fill_value=0
    )
    with pytest.raises(StoreError, match="the store is neither on a disk nor at a URL"):
        SampleReader(elsewhere)


@pytest.mark.parametrize(
    "entry",
    [(1 << 62, 94), ((1 << 64) - 2, 94), (0, 1 << 45), (1 << 40, 94), (0, 0), (0, 3), ((1 << 64) - 1, 5)],
    ids=str,
)
def test_an_index_cannot_ask_for_more_than_a_sample(group: zarr.Group, tmp_path: Path, entry: tuple[int, int]) -> None:
    for name, other in (("image", "c.1.0.0.0"), ("mask", "c.1.0.0")):
        path = tmp_path / "s.zarr/mosaic" / name / other
        data = path.read_bytes()
        index = np.frombuffer(data[-16 * SHARD - CHECKSUM_BYTES : -CHECKSUM_BYTES], "<u8").reshape(-1, 2).copy()
        index[2] = entry
        forged = index.tobytes()
        path.write_bytes(data[: -len(forged) - CHECKSUM_BYTES] + forged + checksum(forged))
        with pytest.raises(StoreError, match=rf"{name}/{other}: .*damaged"):
            SampleReader(array(group, name))[SHARD + 2]


def test_an_index_of_more_samples_than_memory_holds_is_refused(group: zarr.Group, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr/mosaic/image/zarr.json"
    most = 1 << 24
    path.write_text(path.read_text().replace(f"      {SHARD},\n        6", f"      {most},\n        6"))
    with pytest.raises(StoreError, match="the index of the shard is"):
        SampleReader(array(open_group(tmp_path / "s.zarr", "mosaic"), "image"))[0]


def test_a_pipe_or_a_device_is_not_waited_for(group: zarr.Group, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr/mosaic/image/c.1.0.0.0"
    moved = path.rename(tmp_path / "elsewhere")
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0: cannot be read: is a named pipe, expected a file"):
        SampleReader(array(group, "image"))[SHARD]
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match="is a device, expected a file"):
        SampleReader(array(group, "image"))[SHARD]
    path.unlink()
    path.symlink_to(moved)  # a link to a file is as good
    assert np.array_equal(SampleReader(array(group, "image"))[SHARD], array(group, "image")[SHARD])
