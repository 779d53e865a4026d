"""Which images and masks belong together, and what cannot be read."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from synthpipe.core.errors import CatalogError
from synthpipe.segment.masks import digest_of, masked_images
from tests.conftest import pipeline
from tests.segment.conftest import DataSet

TAXONOMY = pipeline().taxonomy
"""Of the demo: tumour, stroma, normal."""


def folder_of(root: Path, images: list[str], masks: list[str]) -> Path:
    for kind, names in {"img": images, "mask": masks}.items():
        (root / kind).mkdir(parents=True)
        for name in names:
            (root / kind / name).touch()
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no mask", r"no mask for 1 of 1 images; expected the image's name with one of \.png, .*: 'a'; rename"),
        (
            "value",
            r"mask.a\.png: has unknown values: 7 \(2000 pixels\); expected 0 to 3 \(.*, background\) or 255",
        ),
        ("size", r"mask.a\.png: has 8 x 8 pixels, but its image has 40 x 50"),
        ("rgb", r"has pixels of Pillow's mode RGB, expected a palette or grey image"),
        ("damaged", r"mask.a\.png: is not an image, expected PNG, JPEG, TIFF or BMP"),
        ("twice", r"img.a\.tif: has the same stem as a\.png"),
        ("empty", r"img: has no images"),
        ("folder", r"expected a folder that contains img/ and mask/"),
    ],
)
def test_images_that_cannot_be_measured_are_named(tmp_path: Path, change: str, message: str) -> None:
    for kind in ("img", "mask") if change != "folder" else ("img",):
        (tmp_path / kind).mkdir()
    mask = np.full((40, 50), 7 if change == "value" else 1, np.uint8)
    mask = mask[:8, :8] if change == "size" else np.stack([mask] * 3, -1) if change == "rgb" else mask
    if change not in ("empty", "folder"):
        PillowImage.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "img" / "a.png")
        if change == "twice":
            PillowImage.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "img" / "a.tif")
        if change == "damaged":
            (tmp_path / "mask" / "a.png").write_bytes(b"\x89PNG")
        elif change != "no mask":
            PillowImage.fromarray(mask).save(tmp_path / "mask" / "a.png")
    with pytest.raises(CatalogError, match=message):
        masked_images(tmp_path)[0].read(TAXONOMY)


def test_the_nearest_names_are_reported(tmp_path: Path) -> None:
    images, masks = (
        ["a-1.png", "b.png", "case7.png", "d.png", "e.png"],
        ["a-1_anno.bmp", "b.gif", "case-7.png", "d.png"],
    )
    with pytest.raises(CatalogError) as error:
        masked_images(folder_of(tmp_path, images, masks))
    told = "'a-1' (found 'a-1_anno.bmp'), 'b' (found 'b.gif'), 'case7' (found 'case-7.png') and 1 more; rename or add"
    assert told in str(error.value) and "no mask for 4 of 5 images" in str(error.value)


def test_names_are_compared_in_one_form_of_unicode(tmp_path: Path) -> None:
    composed = "Gewebe-ü"
    decomposed = unicodedata.normalize("NFD", composed)
    (found,) = masked_images(folder_of(tmp_path / "both", [f"{decomposed}.png"], [f"{composed}.png"]))
    assert found.name == decomposed and found.mask.stem == composed
    with pytest.raises(CatalogError, match="has the same stem as"):
        masked_images(folder_of(tmp_path / "twice", [f"{decomposed}.png", f"{composed}.png"], []))


def test_a_digest_knows_names_bytes_and_meaning(data_set: DataSet) -> None:
    images = masked_images(data_set.validation)
    assert digest_of(images) == digest_of(masked_images(data_set.validation)) != digest_of(images[:1])
    digests = {digest_of([replace(image, meaning=meaning) for image in images]) for meaning in ({}, {0: 1}, {0: 2})}
    assert len(digests | {digest_of(images)}) == 4
