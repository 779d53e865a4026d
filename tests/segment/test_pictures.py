from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image as Pillow

from synthpipe.core.errors import StoreError
from synthpipe.core.records import Image, Mask
from synthpipe.core.taxonomy import LOST, Taxonomy, TissueClass
from synthpipe.segment.pictures import (
    Series,
    confusion_figure,
    curves_figure,
    errors,
    panel,
    save,
)

COLORS = ((0, 64, 128), (64, 128, 0), (243, 152, 0))
TAXONOMY = Taxonomy(
    tuple(TissueClass(name, color) for name, color in zip(("tumour", "stroma $^$", "normal"), COLORS, strict=True))
)


def example(height: int = 60, width: int = 90) -> tuple[Image, Mask]:
    """An image, and a mask: three columns of classes; below them a strip of background and one that was lost."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.repeat(np.arange(width) * 3 // width, height).reshape(width, height).T.astype(np.uint8)
    mask[-10:-5], mask[-5:] = 3, LOST
    return image, mask


def opened(path: Path) -> Pillow.Image:
    return Pillow.open(io.BytesIO(path.read_bytes()))


def test_errors_colours_wrong_pixels_and_no_others() -> None:
    image, truth = example()
    prediction = truth.copy()
    prediction[50:] = 0
    prediction[10:20, 10:20], prediction[10:20, 40:50], prediction[30, 70] = 2, 0, 3
    found = errors(image, truth, prediction, TAXONOMY)
    wrong = (prediction != truth) & (truth < 3)
    assert np.ptp(found[~wrong].astype(int), axis=-1).max() == 0  # grey
    assert (found[10:20, 10:20] == COLORS[2]).all() and (found[10:20, 40:50] == COLORS[0]).all()
    assert not found[30, 70].any()
    right = found[:50][~wrong[:50]]
    assert 155 <= right.min() < right.max() <= 245  # pale, and the tissue is still there
    assert set(np.unique(found[50:])) == {150, 255}


def test_errors_of_a_high_picture_are_what_those_of_its_parts_are() -> None:
    image, truth = example(height=900)
    prediction = np.roll(truth, 7, axis=1)
    whole = errors(image, truth, prediction, TAXONOMY)
    for start in range(0, 880, 16):  # twice the hatching's period
        part = slice(start, start + 90)
        assert np.array_equal(errors(image[part], truth[part], prediction[part], TAXONOMY), whole[part])


def test_pictures_of_different_sizes_are_refused() -> None:
    image, mask = example()
    small = mask[:-1]
    expected = r"image is \(60, 90, 3\) and mask \(59, 90\); expected"
    for truth, prediction in ((small, mask), (mask, small)):
        with pytest.raises(ValueError, match=expected):
            errors(image, truth, prediction, TAXONOMY)
        with pytest.raises(ValueError, match=expected):
            panel(image, truth, prediction, TAXONOMY, "")


def legends(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize(("height", "width"), [(60, 90), (224, 224), (1400, 1000), (20, 400), (600, 30), (1, 1)])
@pytest.mark.parametrize("known", [True, False])
def test_a_panel_of_any_shape_shows_all_pictures_at_a_sensible_size(
    tmp_path: Path, height: int, width: int, known: bool
) -> None:
    image, mask = example(height, width)
    prediction = np.where(mask < 3, mask, 0).astype(np.uint8)
    prediction[0, 0] = 2
    figure = panel(image, mask if known else None, prediction, TAXONOMY, "slide_1$^$.png")
    save(figure, tmp_path / "panel.png")
    size = opened(tmp_path / "panel.png").size
    assert 700 <= size[0] <= 1960 and 150 <= size[1] <= 2600
    names = [axes.get_title().split(",")[0] for axes in figure.axes]
    assert names == (["image", "truth", "prediction", "errors"] if known else ["image", "prediction"])
    assert legends(figure) == [*TAXONOMY.names, *(["ignored"] if known else [])]
    for axes in figure.axes:
        picture = np.asarray(axes.images[0].get_array())
        assert picture.shape[1] <= 1000 and picture.shape[0] / picture.shape[1] == pytest.approx(
            height / width, rel=0.1
        )
        box = axes.get_window_extent()
        assert box.width >= 10 and box.height >= 10  # in dots: of thin images, a thin picture
    pixels = np.asarray(opened(tmp_path / "panel.png").convert("RGB"))
    assert all((pixels == color).all(-1).any() for color in COLORS)


def test_a_panel_says_how_much_is_wrong() -> None:
    image, truth = example()
    prediction = np.where(truth < 3, truth, 1).astype(np.uint8)
    prediction[:50, :9] = 1
    figure = panel(image, truth, prediction, TAXONOMY, "")
    assert figure.axes[3].get_title() == "errors, coloured as predicted: 10.0%"
    ignored = panel(image, np.full_like(truth, 3), prediction, TAXONOMY, "")
    assert ignored.axes[3].get_title() == "errors, coloured as predicted"


def test_a_confusion_figure_has_shares_of_rows_counts_and_names(tmp_path: Path) -> None:
    confusion = np.array([[900_000, 100_000, 0], [1_000, 3_000, 0], [0, 0, 0]])
    figure = confusion_figure(confusion, TAXONOMY)
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[0, 0] == "90.0%\n900.0 k" and texts[1, 0] == "10.0%\n100.0 k" and texts[0, 1] == "25.0%\n1,000"
    assert {texts[column, 2] for column in range(3)} == {"absent"} and len(texts) == 9
    shown = axes.images[0].get_array()
    assert (
        shown is not None
        and np.ma.getmaskarray(shown)[2].all()
        and shown[:2].tolist() == [[0.9, 0.1, 0], [0.25, 0.75, 0]]
    )
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(TAXONOMY.names)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    save(figure, tmp_path / "confusion.png")
    assert np.asarray(opened(tmp_path / "confusion.png").convert("L")).std() > 20
    with pytest.raises(ValueError, match=r"confusion has shape \(2, 2\), expected \(3, 3\)"):
        confusion_figure(confusion[:2, :2], TAXONOMY)
    large = confusion_figure(np.diag([12_345_678, 3_000_000_000, 99_999]), TAXONOMY).axes[0].texts
    assert [large[place].get_text().split("\n")[1] for place in (0, 4, 8)] == ["12.3 M", "3.0 G", "99,999"]


def test_curves_are_drawn_with_their_names(tmp_path: Path) -> None:
    steps = np.arange(400)
    losses: dict[str, Series] = {"dice": (steps, 1 / (1 + steps)), "_bce $^$": (steps[:5], np.ones(5))}
    metrics: dict[str, Series] = {
        "mIoU": ([100, 200, 300], [0.2, 0.7, 0.6]),
        "IoU normal": ([100, 200], [np.nan, np.nan]),
    }
    figure = curves_figure(losses, metrics)
    left, right = figure.axes
    for axes, names in ((left, losses), (right, metrics)):
        legend = axes.get_legend()
        assert legend and [text.get_text() for text in legend.get_texts()] == list(names)
    assert len(left.lines) == 3  # what is long has its moving average
    assert np.allclose(np.asarray(left.lines[1].get_xydata())[200, 1], np.mean(1 / (1 + steps[196:204])), rtol=1e-3)
    best = right.lines[1]
    assert np.asarray(best.get_xydata()).tolist() == [[200, 0.7]]
    assert len(right.lines) == 3  # no best of what has no values
    save(figure, tmp_path / "curves.png")
    assert opened(tmp_path / "curves.png").size == (1800, 675)
    colors = [
        line.get_color() for line in curves_figure({str(name): ([1], [1]) for name in range(12)}, {}).axes[0].lines
    ]
    assert len(colors) == 12 and len(set(colors)) == 8
    save(curves_figure({}, {}), tmp_path / "empty.png")


def test_equal_figures_have_equal_bytes(tmp_path: Path) -> None:
    image, mask = example()
    for name in ("a.png", "b.png"):
        save(panel(image, mask, mask, TAXONOMY, "same"), tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes() and b"matplotlib" not in data


def test_pictures_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    image, _ = example()
    save(image, tmp_path / "image.png")
    assert np.array_equal(np.asarray(opened(tmp_path / "image.png")), image)
    save(image[:5], tmp_path / "image.png")
    assert opened(tmp_path / "image.png").size == (90, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
    (tmp_path / "folder.png" / "in it").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"folder\.png: is a folder, expected a file"):
        save(image, tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "image.png"]
