"""A small finished run with damaged and resealed objects, through everything that reads a run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from synthpipe.core.errors import SynthpipeError
from synthpipe.curated import CuratedSet, open_curated
from tests.fuzz.target import (
    EXTREME_NUMBERS,
    Place,
    Step,
    WrongError,
    command,
    damaged_bytes,
    damaged_value,
    is_of_memory,
    json_bytes,
    pick,
)
from tests.fuzz.targets.fixtures import small_run

EXPORTS = 50
"""One in so many cases is exported too, which starts processes."""

_SHARD = 8  # samples, see tests.conftest.SMALL
_BYTES = (0, 1, 2, 3, 4, 16, 127, 128, 255)
_COUNTS = (0, 1, 2**15, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Damage:
    """What becomes of one file of the run: other bytes, or nothing, a link or a pipe in its place.

    `sealed` has the sums of the run made anew.
    """

    name: str
    what: str
    data: bytes
    sealed: bool
    export: bool


class Stores:
    """See the module."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        self._place, self._step = place, step
        self._sound = small_run(cache)
        self._files = sorted(
            path.relative_to(self._sound).as_posix()
            for path in self._sound.rglob("*")
            if path.is_file() and path.name not in (".lock", "report.html")
        )
        shutil.rmtree(place.case, ignore_errors=True)
        shutil.copytree(self._sound, place.case / "run")
        self._stamps = self._look()
        self._expected = digests(open_curated(self._sound / "curated.zarr"))
        if not self.run(Damage("run.json", "bytes", (self._sound / "run.json").read_bytes(), False, True)):
            raise RuntimeError("the sound run is refused")

    def make(self, rng: np.random.Generator) -> Damage:
        kind = pick(rng, ("shard", "shard", "shard", "metadata", "metadata", "small", "place"))
        shards = [name for name in self._files if re.fullmatch(r"c\.[0-9.]+", Path(name).name)]
        metadata = [name for name in self._files if name.endswith("zarr.json")]
        small = [name for name in self._files if "/c." not in name and not name.endswith("zarr.json")]
        name = pick(rng, shards if kind == "shard" else metadata if kind == "metadata" else small)
        sealed, export = bool(rng.random() < 0.8), int(rng.integers(EXPORTS)) == 0
        if kind == "place":
            what = pick(rng, ("gone", "pipe", "link", "broken link", "folder", "extra"))
            return Damage(pick(rng, self._files), what, b"", sealed, export)
        data = (self._sound / name).read_bytes()
        if kind == "shard":
            what, data = damaged_shard(rng, data) if rng.random() < 0.85 else ("bytes", damaged_bytes(rng, data))
            return Damage(name, what, data, sealed, export)
        if name == "SHA256SUMS":
            return Damage(name, "names", self._other_sums(rng, data), False, export)
        if name.endswith(".csv"):
            return Damage(name, "cells", _other_cells(rng, data), sealed, export)
        if name.endswith(".json") and rng.random() < 0.9:
            return Damage(name, "values", json_bytes(rng, damaged_value(rng, json.loads(data))), sealed, export)
        return Damage(name, "bytes", damaged_bytes(rng, data), sealed, export)

    def _other_sums(self, rng: np.random.Generator, data: bytes) -> bytes:
        lines = data.decode().splitlines()[:-1]
        name = pick(
            rng, ("CANARY/thesis.txt", "../../canary/thesis", "../..", "/etc/passwd", ".", "", "run.json", "a" * 5000)
        )
        digest = pick(rng, ("0" * 64, "f" * 64, "0" * 63, "x" * 64))
        lines.insert(int(rng.integers(len(lines) + 1)), f"{digest}  {name}")
        if rng.random() < 0.3:
            del lines[int(rng.integers(len(lines)))]
        text = "".join(f"{line}\n" for line in lines).replace("CANARY", str(self._place.canary))
        return f"{text}# sha256 of the lines above: {hashlib.sha256(text.encode()).hexdigest()}\n".encode()

    def show(self, case: Damage, folder: Path) -> str:
        path = folder / f"fuzz-stores-{Path(case.name).name}"
        path.write_bytes(case.data)
        sealed = "with the sums made anew" if case.sealed else "with the sums as they were"
        return f"{path}: in place of {case.name}: {case.what}, {sealed}"

    def run(self, case: Damage) -> bool:
        run = self._restored()
        self._apply(case, run)
        accepted = []
        for name, arguments in (
            ("verify", ("verify", run, "--sample", "1")),
            ("verify --sample 0", ("verify", run, "--sample", "0", "--json")),
            ("status", ("status", run)),
            ("inspect", ("inspect", run)),
            ("inspect --json", ("inspect", run / "curated.zarr", "--json")),
            ("inspect --index", ("inspect", run, "--index", "0-2")),
            ("inspect candidates", ("inspect", run / "candidates.zarr" / "bezier", "--index", "1")),
            ("report", ("report", run, "-o", self._place.case / "report.html")),
        ):
            self._step(name)
            if command(*arguments) is not None:
                accepted.append(name)
        if case.export:
            self._step("export", 20)
            shutil.rmtree(self._place.case / "export", ignore_errors=True)
            command("export", run / "curated.zarr", "--to", "png", "-o", self._place.case / "export", "--workers", "0")
        self._step("open_curated")
        try:
            found = digests(open_curated(run / "curated.zarr"))
        except SynthpipeError as error:
            if is_of_memory(error):
                raise
            found = {}
        wrong = [name for name, value in found.items() if value != self._expected[name]]
        sound = [name for name in accepted if name.startswith("verify")]
        if wrong and sound:
            raise WrongError(f"{sound[0]} finds nothing, but {wrong[0]} is not as it was")
        if sound and not found:
            raise WrongError(f"{sound[0]} finds nothing, but the curated set is refused")
        return bool(found)

    def _apply(self, case: Damage, run: Path) -> None:
        path = run / case.name
        if case.what == "extra":
            path = path.with_name(path.name + "0")
        path.unlink(missing_ok=True)
        if case.what == "pipe":
            os.mkfifo(path)
        elif case.what in ("link", "broken link"):
            path.symlink_to(self._place.elsewhere / ("thesis.txt" if case.what == "link" else "nothing.txt"))
        elif case.what == "folder":
            path.mkdir()
        elif case.what != "gone":
            path.write_bytes(case.data)
        if case.sealed and (run / "SHA256SUMS").is_file() and case.name != "SHA256SUMS":
            _seal(run)

    def _look(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in (self._place.case / "run").rglob("*"):
            stat = path.lstat()
            found[str(path)] = stat.st_mode, stat.st_size, stat.st_mtime_ns
        return {name: stat if stat[0] & 0o100000 else (stat[0], 0, 0) for name, stat in found.items()}

    def _restored(self) -> Path:
        """Return the copy of the run as it was, whatever the case before did to it."""
        run = self._place.case / "run"
        now = self._look() if run.exists() else {}
        for name in sorted(now.keys() - self._stamps.keys(), reverse=True):
            path = Path(name)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        for name, stamp in self._stamps.items():
            path, source = Path(name), self._sound / Path(name).relative_to(run)
            if now.get(name) == stamp:
                continue
            if path.is_dir() and not path.is_symlink() and not source.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True) if not source.is_dir() else path.mkdir(parents=True, exist_ok=True)
            if not source.is_dir():
                shutil.copy2(source, path)
        return run


def digests(curated: CuratedSet) -> dict[str, str]:
    """Return the digest of everything that a curated set gives."""
    samples = [curated[index] for index in range(len(curated))]
    arrays = {
        "images": np.stack([sample.image for sample in samples]) if samples else np.empty(0),
        "masks": np.stack([sample.mask for sample in samples]) if samples else np.empty(0),
        **{name: getattr(curated, name) for name in ("labels", "p_real", "donor_groups", "strategies", "indices")},
    }
    found = {name: hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for name, each in arrays.items()}
    return found | {"groups": str(curated.groups), "classes": str(curated.taxonomy), "digest": curated.digest}


def checksummed(data: bytes) -> bytes:
    """Return bytes with the checksum that Zarr stores behind them."""
    return data + struct.pack("<I", google_crc32c.value(data))


def damaged_shard(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    """Return a shard, or a chunk of an array without shards, with other bytes whose checksums are right."""
    index = _index_of(data)
    if index is None:
        what, payload = _other_payload(rng, data[:-4])
        return f"chunk: {what}", checksummed(payload)
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 3))):
            row, column = int(rng.integers(len(index))), int(rng.integers(2))
            index[row, column] = pick(
                rng, (0, 1, len(data), 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1, int(index[0, 1]) * 2)
            )
        return "index", data[: -16 * len(index) - 4] + checksummed(index.tobytes())
    chunks = [data[offset : offset + length] for offset, length in index.tolist()]
    number = int(rng.integers(len(chunks)))
    what, payload = _other_payload(rng, chunks[number][:-4])
    chunks[number] = checksummed(payload)
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    found = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1).astype("<u8")
    return f"sample {number}: {what}", b"".join(chunks) + checksummed(found.tobytes())


def _index_of(data: bytes) -> NDArray[np.uint64] | None:
    """Return the (offset, length) of a shard's chunks; None where the object is one chunk."""
    size = 16 * _SHARD + 4
    if len(data) < size or checksummed(data[-size:-4]) != data[-size:]:
        return None
    return np.frombuffer(data[-size:-4], "<u8").reshape(-1, 2).copy()


def _other_payload(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    """Return the bytes of a chunk, before their checksum, changed as their codec understands them."""
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return _other_zstd(rng, data)
    if len(data) > 16 and data[:2] == b"\x02\x01" and struct.unpack("<I", data[12:16])[0] == len(data):
        return _other_blosc(rng, data)
    if rng.random() < 0.2:
        return "another length", pick(rng, (b"", data[:-1], data * 2, data[: len(data) // 2]))
    return "bytes", damaged_bytes(rng, data)


def _other_blosc(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    found = bytearray(data)
    action = int(rng.integers(4))
    if action == 0:
        for _ in range(int(rng.integers(1, 4))):
            found[int(rng.integers(4))] = int(pick(rng, _BYTES))
    elif action == 1:
        place = int(pick(rng, (4, 8, 12)))
        struct.pack_into("<I", found, place, int(pick(rng, (*_COUNTS, len(data), len(data) + 1))))
    elif action == 2:
        for _ in range(int(rng.integers(1, 4))):
            found[int(rng.integers(12, min(28, len(found))))] = int(rng.integers(256))
    else:
        found[16:] = damaged_bytes(rng, bytes(found[16:]))
        if rng.random() < 0.7:
            struct.pack_into("<I", found, 12, len(found))
    return "blosc", bytes(found)


def _other_zstd(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    action = int(rng.integers(6))
    if action == 0:
        return "zstd header", data[:4] + damaged_bytes(rng, data[4:16]) + data[16:]
    if action == 1:
        return "zstd bomb", bytes(Zstd(19).encode(bytes(int(pick(rng, (1 << 20, 300 << 20))))))
    if action == 2:
        return "zstd bytes", damaged_bytes(rng, data)
    if action == 3:
        return "zstd frames", data * int(pick(rng, (2, 1000)))
    raw = bytes(Zstd().decode(data))
    if action == 4:
        count = struct.pack("<I", int(pick(rng, _COUNTS)))
        place = int(pick(rng, (0, 4)))
        return "counts", bytes(Zstd(1).encode(raw[:place] + count + raw[place + 4 :]))
    texts = (b'{"', b"[" * 2000, b"null", b"1e999", b"\xff\xfe", b'"seed"', b"-1")
    place = int(rng.integers(len(raw) + 1))
    return "values", bytes(
        Zstd(1).encode(pick(rng, (damaged_bytes(rng, raw), raw[:place] + pick(rng, texts) + raw[place:])))
    )


def _other_cells(rng: np.random.Generator, data: bytes) -> bytes:
    """Return a table with another cell."""
    lines = data.split(b"\r\n")
    number = int(rng.integers(len(lines)))
    cells = lines[number].split(b",")
    others = (
        *(
            b"",
            b"../elsewhere/thesis.txt",
            b"http://forbidden.invalid/a.png",
            b"/dev/zero",
            b"\0",
            b'"',
            b"\x1b[2J",
            b"\xff",
        ),
        *(b"generic://x", b"-1", b"tumour+tumour", b"x" * 200_000, *(str(each).encode() for each in EXTREME_NUMBERS)),
    )
    cells[int(rng.integers(len(cells)))] = pick(rng, others)
    lines[number] = b",".join(cells)
    return b"\r\n".join(lines)


def _seal(run: Path) -> None:
    """Write ``SHA256SUMS`` anew, as whoever forges a run would."""
    names = [line.split("  ")[1] for line in (run / "SHA256SUMS").read_text().splitlines()[:-1]]
    digest: Callable[[Any], str] = lambda data: hashlib.sha256(data).hexdigest()  # noqa: E731
    text = "".join(f"{digest((run / name).read_bytes())}  {name}\n" for name in names if (run / name).is_file())
    (run / "SHA256SUMS").write_text(f"{text}# sha256 of the lines above: {digest(text.encode())}\n")
