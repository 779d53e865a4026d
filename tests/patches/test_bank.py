"""The bank holds the same donors as decoding gives, and resizes donors of other sizes to the canvas once."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from synthpipe.compose import Donors, render, sample
from synthpipe.core.errors import StoreError
from synthpipe.core.records import PatchRef
from synthpipe.core.resizing import fit_packed
from synthpipe.patches.bank import bank_bytes, build_bank, load_donor, open_bank
from tests.conftest import pipeline

CANVAS = (64, 64)
GLASS = pipeline("glass.min_area=100").glass
SIZES = [(64, 64), (80, 70), (30, 64), (64, 64), (128, 128), (40, 41)]


@pytest.fixture
def patches(tmp_path: Path) -> list[PatchRef]:
    rng, patches = np.random.default_rng(5), []
    for number, (height, width) in enumerate(SIZES):
        path = tmp_path / f"{number}.png"
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image[: height // 3] = 250  # glass
        PillowImage.fromarray(image).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        patches.append(PatchRef(path.name, str(path), digest, (number % 3,), height, width, "slide"))
    return patches


def build(path: Path, patches: list[PatchRef], canvas: tuple[int, int] | None) -> Donors:
    path.mkdir()
    fit = partial(fit_packed, size=canvas) if canvas else None
    build_bank(path, patches, GLASS, 3, lambda: None, 2, fit)
    return Donors(*open_bank(path))


@pytest.mark.parametrize("canvas", [None, CANVAS, (48, 64)])
def test_composites_are_the_same_whatever_was_fitted_before(
    tmp_path: Path, patches: list[PatchRef], canvas: tuple[int, int] | None
) -> None:
    banked = build(tmp_path / "bank", patches, canvas)
    decoded = Donors(load_donor(patch, GLASS, 3) for patch in patches)
    settings = pipeline("bezier.pairs=all")
    for index in range(30):
        recipe = sample(settings, "bezier", index, decoded)
        assert recipe == sample(settings, "bezier", index, banked)
        ours, expected = render(recipe, banked), render(recipe, decoded)
        assert np.array_equal(ours.image, expected.image) and np.array_equal(ours.mask, expected.mask)


def test_what_was_fitted_is_the_file_and_is_not_resized_again(tmp_path: Path, patches: list[PatchRef]) -> None:
    donors = build(tmp_path / "bank", patches, CANVAS)
    for patch, size in zip(patches, SIZES, strict=True):
        first, again = (donors.fitted(patch.id, CANVAS) for _ in range(2))
        assert first.shape == CANVAS and not first.flags.writeable and np.shares_memory(first, again)
        assert np.shares_memory(first, donors.bank) == (size == CANVAS)
        assert donors.fitted(patch.id, (20, 30)).shape == (20, 30)


@pytest.mark.parametrize("canvas", [None, CANVAS])
def test_its_size_is_known_before(tmp_path: Path, patches: list[PatchRef], canvas: tuple[int, int] | None) -> None:
    build(tmp_path / "bank", patches, canvas)
    stored = sum(path.stat().st_size for path in (tmp_path / "bank").glob("*.bin"))
    assert stored == bank_bytes(patches, canvas)


def test_a_bank_that_cannot_be_written_gives_advice_for_every_command(tmp_path: Path, patches: list[PatchRef]) -> None:
    with pytest.raises(StoreError, match=r"at least \d+ MiB; .* TMPDIR, or for `synthpipe build` with --scratch"):
        build_bank(tmp_path / "gone", patches, GLASS, 3, lambda: None, 2)


@pytest.mark.parametrize("name", ["donors.bin", "fitted.bin"])
def test_pixels_that_are_not_those_that_were_written_are_refused(
    tmp_path: Path, patches: list[PatchRef], name: str
) -> None:
    build(tmp_path / "bank", patches, CANVAS)
    with (tmp_path / "bank" / name).open("r+b") as file:
        file.write(b"\xff\x00\xff")  # a magenta pixel
    with pytest.raises(StoreError, match=rf"{name}: has the checksum \w+, but was written with \w+.*TMPDIR"):
        open_bank(tmp_path / "bank")


@pytest.mark.parametrize("name", ["donors.bin", "fitted.bin", "donors.json"])
def test_files_that_others_may_write_are_refused(tmp_path: Path, patches: list[PatchRef], name: str) -> None:
    before = os.umask(0)
    try:
        build(tmp_path / "bank", patches, CANVAS)
    finally:
        os.umask(before)
    (tmp_path / "bank" / name).chmod(0o660)
    with pytest.raises(StoreError, match=rf"{name}: has mode 660, so other users can write to it"):
        open_bank(tmp_path / "bank")
