from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

import synthpipe
from synthpipe.core.pictures import colors_of, overlay
from synthpipe.curated import Sample
from tests.segment.test_pictures import TAXONOMY, example


def test_a_figure_of_a_composite_shows_it_to_the_pixel() -> None:
    image, mask = example()
    figure = synthpipe.plot.composite(image, mask, TAXONOMY, title="a $b$ <c>", opacity=0.25)
    names = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes}
    assert list(names) == ["image", "mask", "overlay"]
    for name, expected in (
        ("image", image),
        ("mask", colors_of(TAXONOMY)[mask]),
        ("overlay", overlay(image, mask, TAXONOMY, 0.25)),
    ):
        assert np.array_equal(np.asarray(names[name]), expected)
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [*TAXONOMY.names, "background", "lost"]
    drawn = [np.rint(np.array(patch.get_facecolor()[:3]) * 255).tolist() for patch in legend.get_patches()]
    assert drawn == [*map(list, (tissue.color for tissue in TAXONOMY.classes)), [255] * 3, [0] * 3]
    assert figure.get_suptitle() == "a $b$ <c>"


def test_the_legend_names_what_occurs() -> None:
    image, mask = example()
    mask[:] = 1
    figure = synthpipe.plot.composite(Sample(image, mask, np.array([0, 1, 0], np.uint8), TAXONOMY))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["stroma $^$"]


def test_a_notebook_shows_a_figure_without_pyplot() -> None:
    image, mask = example()
    picture = Pillow.open(io.BytesIO(synthpipe.plot.composite(image, mask, TAXONOMY)._repr_png_()))
    assert picture.width == round(3 * 2.8 * 150)
    code = (
        "import sys, synthpipe; synthpipe.plot; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_cannot_be_drawn_is_refused() -> None:
    image, mask = example()
    with pytest.raises(ValueError, match="an image needs its mask and taxonomy"):
        synthpipe.plot.composite(image)
    with pytest.raises(ValueError, match=r"image is \(60, 90, 3\) and mask \(59, 90\)"):
        synthpipe.plot.composite(image, mask[:-1], TAXONOMY)


def test_without_matplotlib_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import synthpipe; synthpipe.open_curated; synthpipe.plot"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        "MissingPackageError: synthpipe.plot needs matplotlib, which is not installed; install with: pip"
        in result.stderr
    )
