from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec

from synthpipe.core.errors import StoreError
from synthpipe.storage import chunks
from synthpipe.storage.chunks import CHECKSUM_BYTES, ChunkCodec, checksum, split_checksum
from tests.conftest import ROOT
from tests.storage.mutants import CODECS, SIZES, samples

BYTES = np.dtype("u1")
STREAMED = b"\x28\xb5\x2f\xfd\x00\x50\x22\x00\x00" + b"\x07" + b"\x00\x00\x00"  # a frame that does not tell its size
STRINGS = np.dtype("T")


@pytest.mark.parametrize("name", CODECS)
def test_no_change_of_a_chunk_crashes_a_decoder_or_invents_samples(name: str) -> None:
    command = [sys.executable, "-m", "tests.storage.mutants", name, "1500", "3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    decoded, refused = map(int, result.stdout.split())
    assert decoded and refused > 1000


@pytest.mark.parametrize("name", ["lz4", "lz4-bits", "zstd"])
def test_what_is_written_is_read_and_within_the_bound(name: str) -> None:
    rng = np.random.default_rng(0)
    for size in (*range(1, 300), *SIZES):
        for values in (samples(size, rng), rng.integers(0, 256, size, np.uint8)):
            stored = b"".join(map(bytes, CODECS[name].encode(values)))
            assert np.array_equal(CODECS[name].read(split_checksum(stored), (size,), BYTES), values)
            assert len(stored) <= CODECS[name].most_bytes((size,), BYTES)


@pytest.mark.parametrize("size", [10, 300, 70_000])
def test_samples_of_another_size_are_refused(size: int) -> None:
    values = samples(size, np.random.default_rng(0))
    for codec in (ChunkCodec(False, None), *(CODECS[name] for name in ("lz4", "lz4-bits", "zstd"))):
        payload = bytes(codec.encode(values)[0])
        for other in (1, size - 1, size + 1):
            with pytest.raises(ValueError, match=rf"{size}, expected {other}$"):
                codec.read(payload, (other,), BYTES)


@pytest.mark.parametrize("name", ["zstd", "text"])
def test_nothing_is_unpacked_beyond_what_is_expected(name: str) -> None:
    bomb = Zstd(1).encode(bytes(chunks.MOST_TEXT + 1))
    assert len(bomb) < 1 << 16
    for payload in (bomb, STREAMED, bomb[:5], b""):
        with pytest.raises(ValueError, match=r"unpacking|zstd frame"):
            CODECS[name].read(payload, (1000,), STRINGS if name == "text" else BYTES)


def test_strings_are_as_many_and_as_long_as_their_chunk_says() -> None:
    codec, texts = CODECS["plain-text"], ["", "é", "{}"]
    payload = bytes(codec.encode(texts)[0])
    assert codec.read(payload, (3,), STRINGS).tolist() == texts
    forged = {
        "strings: 4294967295, expected 3": b"\xff\xff\xff\xff" + payload[4:],
        "a string ends at byte 4294967303": payload[:4] + b"\xff\xff\xff\xff" + payload[8:],
        "bytes of strings": payload + b"more",
        "a string ends at byte 20": payload[:-1],
        "utf-8": payload.replace("é".encode(), b"\xff\xff"),
    }
    for message, data in forged.items():
        with pytest.raises(ValueError, match=message):
            codec.read(data, (3,), STRINGS)


def test_more_text_than_can_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MOST_TEXT", 20)
    with pytest.raises(StoreError, match=r"have 33 bytes, expected at most 20; lower store\.shard"):
        CODECS["text"].encode(["a" * 25])


def test_a_checksum_that_is_cut_off_is_wrong() -> None:
    assert split_checksum(b"data" + checksum(b"data")) == b"data"
    for data in (b"", b"dat", checksum(b"")[:3], b"data" + checksum(b"date")):
        with pytest.raises(ValueError, match="the checksum is wrong"):
            split_checksum(data)
    assert split_checksum(checksum(b"")) == b"" and len(checksum(b"")) == CHECKSUM_BYTES


@pytest.mark.parametrize(
    "codecs",
    [
        [BytesCodec(), BloscCodec(cname="zstd", typesize=1, shuffle="shuffle"), Crc32cCodec()],
        [BytesCodec(), BloscCodec(cname="lz4", typesize=4, shuffle="shuffle"), Crc32cCodec()],
        [BytesCodec(endian="big"), ZstdCodec(), Crc32cCodec()],
        [TransposeCodec(order=(1, 0)), BytesCodec(), Crc32cCodec()],
        [ShardingCodec(chunk_shape=(1, 2), codecs=[BytesCodec(), Crc32cCodec()], index_location="start")],
        [ShardingCodec(chunk_shape=(1, 2), codecs=[BytesCodec(), Crc32cCodec()], index_codecs=[BytesCodec()])],
    ],
    ids=str,
)
def test_codecs_that_are_never_written_are_refused(tmp_path: Path, codecs: list[Codec]) -> None:
    metadata: dict[str, Any] = {
        **{"zarr_format": 3, "node_type": "array", "shape": [4, 2], "data_type": "int32", "fill_value": 0},
        **{"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 2]}}, "attributes": {}},
        **{"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
        "codecs": [codec.to_dict() for codec in codecs],
    }
    array = zarr.Array.from_dict(zarr.storage.StorePath(zarr.storage.LocalStore(tmp_path)), metadata)
    with pytest.raises(StoreError, match="expected those that `synthpipe build` uses"):
        ChunkCodec.of(array)
