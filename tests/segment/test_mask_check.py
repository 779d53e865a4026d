"""What every command reports about masks before it computes, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy
from synthpipe.patches.pixels import picture_digest
from synthpipe.segment.mask_check import CheckedImages, among_patches, check_disjoint, check_masks
from synthpipe.segment.mask_values import parse_mask_map
from synthpipe.segment.masks import masked_images
from tests.conftest import pipeline

TAXONOMY = pipeline().taxonomy
"""Of the demo: tumour, stroma, normal."""


class Notes(list[str]):
    """A reporter that keeps its notes."""

    def stage(self, title: str, total: int) -> Any:
        return nullcontext(lambda steps, remark="": None)

    def note(self, message: str) -> None:
        self.append(message)


def write(root: Path, masks: Mapping[str, object], palette: list[int] | None = None) -> Path:
    """Write images that differ, each with the mask whose rows of ten pixels are given."""
    for kind in ("img", "mask"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for number, (name, rows) in enumerate(masks.items()):
        mask = PillowImage.fromarray(np.repeat(np.array(rows, np.uint8), 10).reshape(-1, 10))
        if palette:
            mask.putpalette(palette)
        mask.save(root / "mask" / f"{name}.png")
        PillowImage.new("RGB", mask.size, (number % 250, number // 250, 7)).save(root / "img" / f"{name}.png")
    return root


def checked(
    root: Path, text: str | None = None, any_palette: bool = False, taxonomy: Taxonomy = TAXONOMY
) -> tuple[CheckedImages, Notes]:
    notes = Notes()
    images = masked_images(root, meaning=None if text is None else parse_mask_map(text, taxonomy))
    return check_masks(images, taxonomy, notes, any_palette), notes


def palette_of(*colors: tuple[int, ...]) -> list[int]:
    return [value for color in colors for value in color]


def test_the_meaning_of_values_is_told_with_shares(tmp_path: Path) -> None:
    _, (note,) = checked(write(tmp_path / "grey", {"a": [0, 0, 1, 2], "b": [2, 2, 3, 255]}))
    expected = (
        "0 = tumour (25.0%); 1 = stroma (12.5%); 2 = normal (37.5%); 3, 255 = ignored (25.0%); no colours confirm"
    )
    assert f"masks of {tmp_path / 'grey'}, with shares of pixels: {expected}" in note and "--mask-map" in note
    colors = [tissue.color for tissue in TAXONOMY.classes]
    _, (note,) = checked(write(tmp_path / "palette", {"a": [0, 1, 2]}, palette_of(*colors)))
    assert note.endswith("0 = tumour (33.3%); 1 = stroma (33.3%); 2 = normal (33.3%); 3 = ignored (0.0%)")
    _, (note,) = checked(write(tmp_path / "map", {"a": [0, 1, 2, 9]}), "0=ignore,1=stroma,2=tumour,9=normal")
    assert note.endswith("2 = tumour (25.0%); 1 = stroma (25.0%); 9 = normal (25.0%); 0 = ignored (25.0%)")


def test_masks_of_0_and_255_alone_are_refused_until_their_meaning_is_given(tmp_path: Path) -> None:
    write(tmp_path, {"a": [0, 0, 255], "b": [0]})
    for any_palette in (False, True):
        with pytest.raises(
            CatalogError, match=r"mask: masks contain only 0 and 255.*0 is tumour and 255 \(25\.0% of"
        ) as error:
            checked(tmp_path, any_palette=any_palette)
    assert '"255=tumour,0=stroma"' in str(error.value) and '"0=tumour,255=ignore"' in str(error.value)
    for text, told in (("255=tumour,0=stroma", "255 = tumour (25.0%)"), ("0=tumour,255=ignore", "0 = tumour (75.0%)")):
        assert told in checked(tmp_path, text)[1][0]
    image, mask = masked_images(tmp_path, meaning=parse_mask_map("255=tumour,0=stroma", TAXONOMY))[0].read(TAXONOMY)
    assert image.shape == (3, 10, 3) and mask[:, 0].tolist() == [1, 1, 0]


def test_0_and_255_are_taken_where_colours_or_other_values_confirm_indices(tmp_path: Path) -> None:
    checked(write(tmp_path / "palette", {"a": [0, 255]}, palette_of(TAXONOMY.classes[0].color)))
    checked(write(tmp_path / "grey", {"a": [0, 255], "b": [1]}))


def test_absent_classes_are_reported(tmp_path: Path) -> None:
    _, notes = checked(write(tmp_path / "two", {"a": [0, 1]}))
    assert "shows normal; mean scores and the choice of the best weights ignore absent classes" in notes[1]
    assert "number the classes from 1" not in notes[1]
    _, notes = checked(write(tmp_path / "from-1", {"a": [1, 2, 3]}))
    assert "shows tumour;" in notes[1] and '--mask-map "1=tumour,2=stroma,3=normal,0=ignore"' in notes[1]
    with pytest.raises(CatalogError, match=r"mask: no mask shows any of the classes tumour, stroma, normal"):
        checked(write(tmp_path / "none", {"a": [3, 255]}))


def test_equal_problems_are_one_line(tmp_path: Path) -> None:
    write(tmp_path, {f"{number:03}": [0, 7] if number < 100 else [1] for number in range(110)})
    (tmp_path / "img" / "105.png").write_bytes(b"")
    with pytest.raises(CatalogError) as error:
        checked(tmp_path)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path / 'mask' / '000.png'}: has unknown values: 7 (10 pixels); expected 0 to 3")
    assert first.endswith("; the same for 99 more: 001.png, 002.png, 003.png and 96 more")
    assert second == f"  {tmp_path / 'img' / '105.png'}: is empty, expected PNG, JPEG, TIFF or BMP"


def test_palettes_that_one_map_cannot_serve_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a": [0, 1], "b": [0, 1]}, palette_of((9, 9, 9), (200, 0, 0)))
    checked(tmp_path, "0=tumour,1=stroma")
    with PillowImage.open(tmp_path / "mask" / "b.png") as mask:
        mask.putpalette(palette_of((200, 0, 0), (9, 9, 9)))
        mask.save(tmp_path / "mask" / "b.png")
    with pytest.raises(
        CatalogError, match=r"b\.png: its palette has \(200, 0, 0\) at 0, but the palette of a\.png has \(9, 9, 9\)"
    ):
        checked(tmp_path, "0=tumour,1=stroma")


def test_copies_are_told_whatever_their_files_are(tmp_path: Path) -> None:
    write(tmp_path, {name: [0, 1, 2] for name in "abcdefg"})
    for name in "bcdefg":
        (tmp_path / "img" / f"{name}.png").unlink()
        with PillowImage.open(tmp_path / "img" / "a.png") as image:
            image.save(tmp_path / "img" / f"{name}.bmp")
    found, notes = checked(tmp_path)
    assert (
        "6 of 7 images have the same pixels as another image: b.bmp of a.png, c.bmp of a.png, d.bmp of a.png"
        in notes[1]
    )
    assert "and 3 more; copies make the intervals too narrow" in notes[1]
    other, _ = checked(write(tmp_path / "other", {"x": [0, 1, 2]}))  # the image is a's
    with pytest.raises(ConfigError, match=r"--data: .*x\.png is also in --val, as .*a\.png"):
        check_disjoint({"--val": found, "--data": other})


def test_masks_without_an_image_are_reported(tmp_path: Path) -> None:
    write(tmp_path, {"a": [0, 1, 2], "b": [0], "c": [0]})
    for name in "bc":
        (tmp_path / "img" / f"{name}.png").unlink()
    assert f"note: {tmp_path / 'mask'}: 2 masks have no image and are not used: b.png, c.png" in checked(tmp_path)[1]


def test_images_among_the_real_patches_are_reported(tmp_path: Path) -> None:
    found, _ = checked(write(tmp_path, {"a": [0, 1, 2], "b": [0]}))
    notes, path = Notes(), found.images[1].image
    patch = PatchRef("b", str(path), picture_digest(path), (0,), 1, 10, "b")
    among_patches(found.images, [patch], notes)
    assert len(notes) == 1 and "1 of 2 images are among the real patches that train the network: b.png" in notes[0]
