"""Problems and remarks about pixels, sizes and names of patches."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from synthpipe.patches.catalog import Catalog, survey
from synthpipe.patches.claims import problem_lines
from synthpipe.patches.names import alike_folders, masks_among
from synthpipe.patches.remarks import catalog_remarks
from tests.patches.test_catalog import LUNG, save, section


def found(root: Path, **settings: Any) -> Catalog:
    return survey(section(root, layout="folders", **settings), LUNG)


def problems(catalog: Catalog) -> dict[str, str]:
    return {problem.id: f"{problem.kind}: {problem.message.partition(': ')[2]}" for problem in catalog.problems}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("tumour/a", "tumour/b", "stroma/c", "stroma/d")):
        save(tmp_path / f"{name}.png", seed, 40, 30)
    return tmp_path


def flat(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (30, 40), color).save(path)


def test_slivers_are_problems_by_the_patches_the_canvas_or_the_key(root: Path) -> None:
    save(root / "tumour/line.png", 7, 101, 3)
    save(root / "tumour/dot.png", 8, 1, 1)
    save(root / "tumour/small.png", 9, 12, 20)
    assert found(root).patches != ()
    assert problems(found(root)) == {
        "tumour/dot.png": "too_small: has 1 x 1 pixels, expected sides of at least 7: smaller patches would be "
        "stretched; exclude it with patches.exclude, or lower patches.min_side",
        "tumour/line.png": "too_small: has 101 x 3 pixels, expected sides of at least 7: smaller patches would be "
        "stretched; exclude it with patches.exclude, or lower patches.min_side",
    }
    patches = section(root, layout="folders")
    by_canvas = survey(patches, LUNG, canvas=(64, 80))
    assert problems(by_canvas).keys() == {"tumour/dot.png", "tumour/line.png", "tumour/small.png"}
    assert "expected sides of at least 16:" in by_canvas.problems[0].message
    assert problems(found(root, min_side=1)).keys() == {"tumour/dot.png"}, "a pixel has one colour"
    assert problems(found(root, min_side=4)).keys() == {"tumour/dot.png", "tumour/line.png"}


def test_pictures_of_one_colour_are_problems(root: Path) -> None:
    flat(root / "stroma/black.png", (0, 0, 0))
    flat(root / "stroma/glass.jpg", (255, 250, 245))
    assert problems(found(root))["stroma/black.png"] == (
        "blank: has one colour, RGB (0, 0, 0), in all its pixels; replace it or exclude it with patches.exclude"
    )
    assert problems(found(root)).keys() == {"stroma/black.png", "stroma/glass.jpg"}


def test_pictures_that_show_next_to_nothing_or_few_colours_are_remarked_on(root: Path) -> None:
    rng = np.random.default_rng(1)
    PIL.Image.fromarray(rng.integers(240, 250, (40, 30, 3), dtype=np.uint8)).save(root / "stroma/glass.png")
    PIL.Image.fromarray(rng.integers(0, 2, (40, 30), dtype=np.uint8) * 255).convert("RGB").save(root / "stroma/map.png")
    catalog = found(root)
    assert not catalog.problems
    assert [remark.partition(")")[0] for remark in catalog.remarks] == [
        "1 patches have at most 8 colours, as masks do (the first: 'stroma/map.png'",
        "1 patches are nearly blank (the first: 'stroma/glass.png'",
    ]


def again(path: Path, target: Path) -> None:
    """Save the same pixels with other metadata and another compression."""
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", "again")
    with PIL.Image.open(path) as picture:
        picture.save(target, pnginfo=text, compress_level=1)


def test_equal_pixels_in_other_bytes_are_duplicates(root: Path) -> None:
    again(root / "tumour/a.png", root / "tumour/z.png")
    with PIL.Image.open(root / "tumour/b.png") as picture:
        picture.save(root / "tumour/y.tif")
        picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(root / "tumour/x.png")
    assert problems(found(root)) == {
        "tumour/y.tif": "duplicate: holds the same pixels as 'tumour/b.png'; delete one of them or exclude it with "
        "patches.exclude",
        "tumour/z.png": "duplicate: holds the same pixels as 'tumour/a.png'; delete one of them or exclude it with "
        "patches.exclude",
    }


def test_a_picture_under_two_labels_is_used_under_neither(root: Path) -> None:
    again(root / "tumour/a.png", root / "stroma/z.png")
    again(root / "tumour/a.png", root / "tumour/z.png")
    catalog = found(root)
    assert [patch.id for patch in catalog.patches] == ["stroma/c.png", "stroma/d.png", "tumour/b.png"]
    told = problems(catalog)
    assert told.keys() == {"stroma/z.png", "tumour/a.png", "tumour/z.png"}
    assert told["tumour/a.png"] == (
        "duplicate: holds the same pixels as 'stroma/z.png', but is labelled tumour, not stroma; neither is used: "
        "delete one of them or exclude it with patches.exclude"
    )
    assert "same bytes" not in told["stroma/z.png"] and "labelled stroma, not tumour" in told["stroma/z.png"]


def test_the_result_does_not_depend_on_threads(root: Path) -> None:
    again(root / "tumour/a.png", root / "stroma/z.png")
    again(root / "tumour/b.png", root / "tumour/z.png")
    flat(root / "stroma/black.png", (0, 0, 0))
    patches = section(root, layout="folders")
    assert len({repr(survey(patches, LUNG, threads=threads)) for threads in (1, 2, 7)}) == 1


def test_patches_of_a_former_run_stay_usable(root: Path) -> None:
    """A run that was built before these checks existed is extended with its own patches."""
    again(root / "tumour/a.png", root / "stroma/z.png")
    former = survey(section(root, layout="folders", exclude=["tumour/a.png"]), LUNG)
    flat(root / "stroma/black.png", (0, 0, 0))
    catalog = survey(section(root, layout="folders"), LUNG, former=former)
    assert catalog.digest == former.digest
    assert problems(catalog)["tumour/a.png"].endswith(
        "labelled tumour, not stroma; it is not used: delete one of them or exclude it with patches.exclude"
    )
    assert problems(catalog).keys() == {"tumour/a.png", "stroma/black.png"}


def test_masks_beside_images_are_problems_with_the_pattern_that_leaves_them_out(root: Path) -> None:
    for name in ("e", "f"):
        save(root / "normal/images" / f"{name}.png", ord(name), 40, 30)
        save(root / "normal/masks" / f"{name}.png", ord(name) + 10, 40, 30)
    catalog = found(root)
    assert list(problem_lines(catalog.problems)) == [
        "2 x mask: patch 'normal/masks/e.png': its name is that of a mask of 'normal/images/e.png'; exclude masks "
        "with patches.exclude: ['*/masks/*']; the same holds for 'normal/masks/f.png'"
    ]
    assert found(root, exclude=["*/masks/*"]).problems == ()


@pytest.mark.parametrize(
    ("image", "mask", "pattern"),
    [
        ("tumour/images/a.jpg", "tumour/masks/a.png", "*/masks/*"),
        ("tumour/a.png", "tumour/Ground Truth/a.png", "*/Ground Truth/*"),
        ("img/s1/a-[1, 0, 0].png", "mask/s1/a-[1, 0, 0].png", "mask/*"),
        ("tumour/img/a.png", "tumour/labels[x]/a_label.png", "*/labels[[]x]/*"),
        ("tumour/a.png", "tumour/masks_224/a.png", "*/masks_224/*"),
        ("train_1.bmp", "train_1_anno.bmp", "*_anno.bmp"),
        ("benign/benign (1).png", "benign/benign (1)_mask.png", "*_mask.png"),
    ],
)
def test_names_of_masks(image: str, mask: str, pattern: str) -> None:
    for order in permutations([image, mask, "other/b.png"]):
        assert masks_among(order) == {mask: (image, pattern)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tumour/s1/a.png", "tumour/s2/a.png"),
        ("tumour/images/a.png", "tumour/masks/b.png"),
        ("tumour/damask/a.png", "tumour/b/a.png"),
        ("tumour/a.png", "stroma/a_mask.png"),
        ("TCGA-A1-0001/tile_0.png", "TCGA-GT-0002/tile_0.png"),
        ("tumour/A12/tile_0.png", "tumour/GT12/tile_0.png"),
        ("tumour/a.png", "tumour/seg_1/a.png"),
        ("tumour/an/a.png", "tumour/ann/a.png"),
    ],
)
def test_other_names_are_no_masks(one: str, other: str) -> None:
    assert masks_among([one, other]) == {}


def test_folders_with_the_same_names_are_remarked_on(root: Path) -> None:
    for folder in ("left", "right"):
        save(root / "normal" / folder / "e.png", len(folder), 40, 30)
    save(root / "stroma/a.png", 31, 40, 30)
    save(root / "stroma/b.png", 32, 40, 30)
    (remark,) = (each for each in catalog_remarks(found(root), LUNG, "folders") if "same names" in each)
    assert remark == (
        "normal/left/ and normal/right/ hold patches with the same names, such as 'e'; if one folder holds masks "
        "or copies, exclude it with patches.exclude: ['normal/right/*']"
    )
    assert list(alike_folders(["a/x.png", "a/y.png", "b/x.png", "b/z.png", "c.png"])) == []


def test_slides_with_tiles_of_the_same_names_are_one_remark(root: Path) -> None:
    for number in range(5):
        save(root / "normal" / f"s{number}" / "tile_0.png", number + 40, 40, 30)
    (remark,) = (each for each in catalog_remarks(found(root), LUNG, "folders") if "same names" in each)
    assert remark.startswith("normal/s0/ and normal/s1/ and 3 more hold patches with the same names, such as 'tile_0'")


def test_classes_with_one_donor_or_donors_of_one_slide_are_remarked_on(root: Path) -> None:
    save(root / "normal/s1-1.png", 11, 40, 30)
    assert list(catalog_remarks(found(root), LUNG, "folders")) == [
        "normal has a single donor, 'normal/s1-1.png': all normal in composites comes from it; add patches"
    ]
    save(root / "normal/s1-2.png", 12, 40, 30)
    catalog = found(root, group_pattern="^(s1|.)")
    assert list(catalog_remarks(catalog, LUNG, "folders")) == [
        "all 2 donors of normal come from one slide or patient, 's1'; add patches of others"
    ]
