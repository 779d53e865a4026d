"""Layouts that are found for unknown folders; no patch is opened, so the files here are empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.patches.proposing import choose_layout, find_layout, group_pattern, label_pattern
from tests.patches.test_layouts import touch

PATTERN = "^(?P<label>[A-Z+]+)_"


@pytest.mark.parametrize(
    ("names", "below", "layout", "classes"),
    [
        (["1.training/7-1-2-[1, 0, 0].png"], "", "wsss4luad", ("tumour", "stroma", "normal")),
        (["7-1-2-[1, 0, 0].png"], "", "wsss4luad", ("tumour", "stroma", "normal")),
        (["training/TCGA-A1-A0SK-DX1_1+0[1001].png", "val/img/a.png"], "", "bcss-wsss", None),
        (["train/387709-17128-30366-[1 0 0 1].png"], "", "luad-histoseg", None),
        (["TUM/a.png", "STR/b/c.png", "TUM+fat/d.png", "notes/readme.txt"], "", "folders", ("STR", "TUM", "fat")),
        (["TUM/a.png", "tum/b.png", "STR/c.png", "masks/a.png"], "", "folders", ("STR", "TUM")),
        (["set/TUM/a.png", "set/STR/b.png"], "set", "folders", ("STR", "TUM")),
        (["train/TUM/a.png", "train/STR/b.png", "test/TUM/c.png"], "train", "folders", ("STR", "TUM")),
        (["1.training/TUM/a.png", "1.training/STR/b.png", "2.validation/c.png"], "1.training", "folders", None),
        (["images/TUM/a.png", "images/STR/b.png", "masks/TUM/a.png"], "images", "folders", ("STR", "TUM")),
        ([f"TCGA-A{n}/{label}_{n}.png" for label in ("TUM", "STR") for n in range(3)], "", "pattern", ("STR", "TUM")),
        ([f"slide {n}/{label}_{n}.png" for label in ("TUM", "STR") for n in range(3)], "", "pattern", ("STR", "TUM")),
        ([f"G{n}/{label}_{n}.png" for label in ("a", "b") for n in range(3)], "", "folders", ("G0", "G1", "G2")),
        ([f"class 00{n}/TUM_{n}.png" for n in range(3)], "", "folders", None),
        ([f"{label}_{n}.png" for label in ("TUM", "STR+TUM") for n in range(3)], "", "pattern", ("STR", "TUM")),
    ],
    ids=range(15),
)
def test_layouts_are_found(
    names: Sequence[str], below: str, layout: str, classes: tuple[str, ...] | None, tmp_path: Path
) -> None:
    found = find_layout(touch(tmp_path, *names))
    assert (found.root, found.layout) == (tmp_path / below, layout)
    assert found.exclude == (("masks/*",) if "masks/a.png" in names else ())
    if classes:
        assert tuple(sorted(found.class_names, key=classes.index)) == classes


def test_tables_are_found(tmp_path: Path) -> None:
    table = touch(tmp_path, "a.png", "b.png") / "labels.csv"
    table.write_text("path,labels\na.png,TUM\nb.png,STR\n")
    for root in (tmp_path, table):
        assert (find_layout(root).root, find_layout(root).layout) == (table, "csv")


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["ADI___ADI-TCGA-A_1", "ADI___ADI-TCGA-B_2", "LYM___LYM-TCGA-C_1", "LYM___LYM-TCGA-D_2"], PATTERN),
        (["ADI-1", "LYM-1", "ADI+LYM-2", "LYM-2"], "^(?P<label>[A-Z+]+)-"),
        (["tumour 1", "tumour 2", "Fat 1", "fat 2"], "^(?P<label>[A-Za-z+]+) "),
        (["7_1_TUM", "7_2_TUM", "8_1_STR", "8_2_STR"], "_(?P<label>[A-Z+]+)$"),
        (["TCGA-1", "TCGA-2", "TCGA-3", "TCGA-4"], None),
        (["ab-1", "cd-1", "ef-1", "gh-1"], None),
        (["ADI-1", "ADI-2", "LYM-1", "2"], None),
        ([], None),
    ],
    ids=range(8),
)
def test_label_patterns_are_proposed_where_all_names_share_a_form(names: Sequence[str], pattern: str | None) -> None:
    assert label_pattern(names) == pattern


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["TUM-TCGA-A1-A0SK-1", "STR-TCGA-A1-A0SK-2", "TUM-TCGA-B2-A0SK-1", "x-TCGA-B2-A0SK-2"], "(TCGA-[A-Z0-9]{2}-"),
        (["a_1_2", "a_3_4", "b_1_2", "b_3_4"], r"^(.+?)[-_]\d+[-_]\d+$"),
        (["s1-x", "s1-y", "s2-x", "s2-z"], "^([^-_]+)[-_]"),
        (["A-TCGA-QWERTZUI_1", "A-TCGA-ASDFGHJK_2", "B-TCGA-YXCVBNMA_1", "B-TCGA-QAYWSXED_2"], None),
    ],
    ids=range(4),
)
def test_slides_are_found_unless_they_are_labels_or_single_patches(names: Sequence[str], pattern: str | None) -> None:
    found = group_pattern(
        names, [name[0] if name[0] in "AB" else "ab"[number % 2] for number, name in enumerate(names)]
    )
    assert (found is None) if pattern is None else (found or "").startswith(pattern)


def test_a_folder_without_labels_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError, match=r"no labels found: .* holds 2 images such as '1\.png'; expected a folder for"
    ):
        find_layout(touch(tmp_path, "1.png", "2.png"))
    with pytest.raises(CatalogError, match=r"no labels found: .* holds the folders 'test', 'val'"):
        find_layout(touch(tmp_path.with_name("set"), "test/TUM/1.png", "val/TUM/1.png"))
    with pytest.raises(
        CatalogError, match=r"pattern '\^\(\?P<label>a\)' finds no label in 2 file names, such as '1'; c"
    ):
        choose_layout(tmp_path, None, "^(?P<label>a)").class_names  # noqa: B018
    with pytest.raises(ConfigError, match=r"--label-pattern: layout csv uses no label pattern"):
        choose_layout(tmp_path, "csv", PATTERN)
    with pytest.raises(ConfigError, match=r"--label-pattern '\(TUM\)': put \(\?P<label>"):
        choose_layout(tmp_path, None, "(TUM)")
    with pytest.raises(ConfigError, match=r"--layout pattern: give --label-pattern too"):
        choose_layout(tmp_path, "pattern", None)
