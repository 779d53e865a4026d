from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from synthpipe.core.pictures import data_uri, jpeg, overlay, palette_png, png
from tests.segment.test_pictures import COLORS, TAXONOMY, example


def test_an_overlay_colours_classes_and_nothing_else() -> None:
    image, mask = example()
    kept = image.copy(), mask.copy()
    found = overlay(image, mask, TAXONOMY, opacity=0.25)
    assert found.dtype == np.uint8 and found.shape == image.shape
    assert np.array_equal(found[50:], image[50:])
    for index, color in enumerate(COLORS):
        inside = np.s_[:49, 30 * index + 1 : 30 * index + 29]
        assert np.array_equal(found[inside], np.rint(image[inside] * 0.75 + np.array(color) * 0.25))
    contour = np.zeros(mask.shape, bool)
    contour[:50, [29, 30, 59, 60]] = contour[49] = True
    assert np.array_equal(found[contour], np.array(COLORS)[mask[contour]])
    assert np.array_equal(image, kept[0]) and np.array_equal(mask, kept[1])
    whole = np.zeros(mask.shape, np.uint8)
    assert np.array_equal(overlay(image, whole, TAXONOMY, opacity=0), image)  # the image's border is no contour


def test_a_high_picture_is_what_its_parts_are() -> None:
    """It is made strip by strip; contours go on where one strip ends and the next begins."""
    image, mask = example(height=900)
    mask[::3, ::2] = 1
    whole = overlay(image, mask, TAXONOMY)
    for start in range(0, 800, 50):
        part = overlay(image[start : start + 100], mask[start : start + 100], TAXONOMY)
        assert np.array_equal(part[1:-1], whole[start + 1 : start + 99])


def test_an_overlay_of_another_size_is_refused() -> None:
    image, mask = example()
    with pytest.raises(ValueError, match=r"image is \(60, 90, 3\) and mask \(59, 90\); expected"):
        overlay(image, mask[:-1], TAXONOMY)


def test_pictures_read_back_a_mask_with_its_palette() -> None:
    image, mask = example()
    found = Pillow.open(io.BytesIO(palette_png(mask, TAXONOMY)))
    assert found.mode == "P" and np.array_equal(np.asarray(found), mask)
    assert bytes(found.getpalette() or []) == TAXONOMY.palette()
    assert np.asarray(found.convert("RGB"))[0, 0].tolist() == list(COLORS[0])
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(png(image)))), image)


def test_a_jpeg_in_a_page_is_the_picture() -> None:
    image, _ = example()
    smooth = np.repeat(np.repeat(image[::10, ::10], 10, axis=0), 10, axis=1)
    kind, data = data_uri("image/jpeg", jpeg(smooth)).split(";base64,")
    found = Pillow.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/jpeg" and found.format == "JPEG"
    assert np.abs(np.asarray(found).astype(int) - smooth).mean() < 6
    assert len(jpeg(image, quality=30)) < len(jpeg(image))
