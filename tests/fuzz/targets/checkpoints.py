"""Damaged and forged checkpoints: the mask is that of the sound one, or the checkpoint is refused."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from synthpipe.patches.pixels import decode
from synthpipe.pretrained.tensors import KEY, _digest, unpack
from tests.fuzz.target import (
    Place,
    Step,
    WrongError,
    command,
    damaged_bytes,
    damaged_value,
    json_bytes,
    pick,
)
from tests.fuzz.targets.fixtures import phantom, small_checkpoint


@dataclass(frozen=True)
class File:
    """A checkpoint; `forged` where whoever made it could have trained it so."""

    what: str
    data: bytes
    forged: bool


class Checkpoints:
    """See the module."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        self._place, self._step = place, step
        self._sound = small_checkpoint(cache).read_bytes()
        self._image = next((phantom(cache) / "1.training").glob("*.png"))
        self._path = place.case / "best.ckpt"
        self._expected = self._mask(self._sound)
        if self._expected is None:
            raise RuntimeError("the sound checkpoint is refused")

    def make(self, rng: np.random.Generator) -> File:
        action = int(rng.integers(8))
        if action == 0:
            size = int(pick(rng, (512, 4096, 65_536)))
            place = int(rng.integers(len(self._sound)))
            data = self._sound[:place] + bytes(size) + self._sound[place + size :]
            return File(f"{size} zeros at {place}", data[: len(self._sound)], False)
        if action == 1:
            data = self._sound[: int(rng.integers(len(self._sound)))]
            return File(f"cut to {len(data)}", data, False)
        if action <= 3:
            return File("damaged", damaged_bytes(rng, self._sound), False)
        if action <= 4:
            return File(*_foreign(rng), False)
        return File(*self._forged(rng), True)

    def _forged(self, rng: np.random.Generator) -> tuple[str, bytes]:
        """Return a checkpoint that says something else, with a right checksum, in today's or in the former format."""
        text, tensors = unpack(self._sound)
        about: Any = json.loads(text)
        action, name = int(rng.integers(6)), pick(rng, sorted(tensors))
        if action <= 2:
            about = damaged_value(rng, about)
        elif action == 3:
            tensors[name] = pick(rng, _other_tensors(tensors[name]))
        elif action == 4:
            tensors[pick(rng, ("x", "weights/", "optimizer/x", "a" * 1000))] = tensors.pop(name)
        else:
            del tensors[name]
        said = json_bytes(rng, about).decode("utf-8", "replace")
        if rng.random() < 0.3:
            weights = {key.removeprefix("weights/"): value for key, value in tensors.items() if "optimizer" not in key}
            target = io.BytesIO()
            data = {"format_version": 1, "about": said, "weights": weights, "optimizer": None}
            torch.save(data, target)
            return "forged in the former format", target.getvalue()
        return "forged", safetensors.torch.save(tensors, {KEY: f"{_digest(said, tensors)} {said}"})

    def show(self, case: File, folder: Path) -> str:
        path = folder / "fuzz-checkpoints.ckpt"
        path.write_bytes(case.data)
        return f"{path}: {case.what}"

    def run(self, case: File) -> bool:
        found = self._mask(case.data)
        if found is None:
            return False
        if not case.forged and not np.array_equal(found, self._expected):
            raise WrongError("a damaged checkpoint gives another mask")
        return True

    def _mask(self, data: bytes) -> Any:
        shutil.rmtree(self._place.case, ignore_errors=True)
        self._place.case.mkdir()
        self._path.write_bytes(data)
        self._step("predict")
        output = self._place.case / "out"
        if command("predict", self._path, self._image, "-o", output, "--device", "cpu", "--no-overlays") is None:
            return None
        return decode(output / f"{self._image.stem}.png")


def _other_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    shape = tensor.shape or torch.Size([1])
    return [
        torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 1,
        tensor.to(torch.float64) * 1e300,
        tensor.to(torch.bool),
        torch.zeros(shape, dtype=torch.float16),
        torch.zeros((0, *shape)),
        tensor[..., None].contiguous(),
    ]


def _foreign(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return a file that is something else than a checkpoint, and may be made to harm."""
    action = int(rng.integers(6))
    if action == 0:
        return "a pickle that runs code", b"cos\nsystem\n(S'touch ../elsewhere/pwned'\ntR."
    if action == 1:
        return "a pickle nested deeply", b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b"."
    if action == 2:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("archive/data.pkl", "archive/data/0", "archive/version"):
                archive.writestr(name, bytes(300 << 20) if name.endswith("pkl") else b"3\n")
        return "a zip bomb", target.getvalue()
    if action == 3:
        return "safetensors", struct.pack("<Q", int(pick(rng, (2, 2**62, 10**6)))) + b'{"a": {"dtype": "F32"}}'
    if action == 4:
        return "a pickle of much memory", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"."
    return "noise", rng.bytes(int(rng.integers(5000)))
