"""Layouts of data sets on a disk; they open no patches, so the files here are empty."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.patches.claims import Claim
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.published import PUBLISHED

LUNG = Taxonomy(
    (
        TissueClass("tumour", (0, 64, 128), ("TUM",)),
        TissueClass("stroma", (64, 128, 0), ("STR",)),
        TissueClass("normal", (243, 152, 0)),
    )
)
BREAST = Taxonomy(tuple(TissueClass(name, (0, 0, 0)) for name in ("TUM", "STR", "LYM", "NEC")))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def claims(root: Path, layout: str, taxonomy: Taxonomy = LUNG, **settings: Any) -> dict[str, Claim]:
    patches = PatchesSection.model_validate({"root": str(root), "layout": layout, **settings})
    listed = read_layout(patches, taxonomy)
    assert [claim.id for claim in listed] == sorted(claim.id for claim in listed)
    return {claim.id: claim for claim in listed}


def only_problem(claim: Claim) -> str:
    (problem,) = claim.problems
    assert problem.id == claim.id
    assert problem.message.startswith(f"patch {claim.id!r}")
    return f"{problem.kind}: {problem.message}"


def write_csv(folder: Path, text: str | bytes) -> Path:
    table = folder / "labels.csv"
    table.write_bytes(text.encode() if isinstance(text, str) else text)
    return table


def test_classes_in_another_order_than_a_layouts_digits_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "train", "slide-1-[0100].png")
    classes = ("tumour", "stroma", "lymphocytic infiltrate", "necrosis")
    with pytest.raises(CatalogError, match=r"layout luad-histoseg are digits for .*necrosis has index 3 in the"):
        claims(tmp_path, "luad-histoseg", Taxonomy(tuple(TissueClass(name, (0, 0, 0)) for name in classes)))
    renamed = Taxonomy(tuple(TissueClass(name, (0, 0, 0)) for name in ("TE", "necrosis", "LYM", "TAS")))
    assert [claim.classes for claim in claims(tmp_path, "luad-histoseg", renamed).values()] == [(1,)]


def test_wsss4luad(tmp_path: Path) -> None:
    names = ("1003370-11223-11698-[1, 1, 0].png", "1003370-15-9-[0, 0, 1].png", "387709-4-5-[1,0,0].PNG")
    touch(tmp_path / "1.training", *names)
    touch(tmp_path, "2.validation/img/00.png", "2.validation/mask/00.png", "3.testing/img/01.png")
    found = claims(tmp_path, "wsss4luad")
    assert {name: claim.classes for name, claim in found.items()} == dict(zip(names, [(0, 1), (2,), (0,)], strict=True))
    assert [claim.group for claim in found.values()] == ["1003370", "1003370", "387709"]
    assert found[names[0]].path == str(tmp_path / "1.training" / names[0])
    assert not any(claim.problems for claim in found.values())


def test_bcss_wsss(tmp_path: Path) -> None:
    first = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1001].png"
    other = "TCGA-A1-A0SK-DX2_xmin1_ymin2_MPP-0.2500+12[0 1 0 0].png"
    touch(tmp_path / "training", first, other)
    touch(tmp_path, "val/img/x.png", "test/mask/x.png")
    found = claims(tmp_path, "bcss-wsss", BREAST)
    assert found[first].classes == (0, 3)
    assert found[other].classes == (1,)
    assert {claim.group for claim in found.values()} == {"TCGA-A1-A0SK"}, "slides of one patient belong together"


def test_luad_histoseg(tmp_path: Path) -> None:
    touch(tmp_path / "train", "1031280-2300-27920-[1 0 0 1].png", "1031280-2300-27920-[0 0 1 0].png")
    found = claims(tmp_path, "luad-histoseg", BREAST)
    assert [claim.classes for claim in found.values()] == [(2,), (0, 3)]
    assert {claim.group for claim in found.values()} == {"1031280"}


@pytest.mark.parametrize("folder", ["1.training", "renamed"])
def test_root_may_be_the_training_folder(tmp_path: Path, folder: str) -> None:
    touch(tmp_path / folder, "1-2-[1, 0, 0].png")
    assert list(claims(tmp_path / folder, "wsss4luad")) == ["1-2-[1, 0, 0].png"]


def test_wrong_names_are_listed_with_their_faults(tmp_path: Path) -> None:
    faults = {
        "1-a.png": "no label in brackets",
        "2-[1, 0, 0.png": "is not closed",
        "3-[1, 0, 0] (1).png": "not at the end of the name: ' (1)' follows it",
        "4-[1, 0].png": "holds 2 digits, expected 3",
        "5-[1001].png": "holds 4 digits, expected 3",
        "6-[1, 2, 0].png": "label holds '2', which is neither 0 nor 1",
        "7-[a, 0, 1].png": "label holds 'a', which is neither 0 nor 1",
        "8-[0, 0, 0].png": "holds zeros only",
        "9-[].png": "is empty",
        "10-[1, 0, 0]-copy.png": "'-copy' follows it",
        "11-tumour.tif": "no label in brackets",
    }
    touch(tmp_path / "1.training", *faults, "12-[1, 0, 0].png")
    found = claims(tmp_path, "wsss4luad")
    assert found.pop("12-[1, 0, 0].png").problems == ()
    assert found.keys() == faults.keys()
    for name, fault in faults.items():
        message = only_problem(found[name])
        assert message.startswith(f"mislabelled: patch {name!r}: ")
        assert fault in message
        assert message.endswith("; rename it or exclude it with patches.exclude")


def test_the_whole_message(tmp_path: Path) -> None:
    touch(tmp_path / "1.training", "a-[1, 2].png")
    assert only_problem(claims(tmp_path, "wsss4luad")["a-[1, 2].png"]) == (
        "mislabelled: patch 'a-[1, 2].png': label holds '2', which is neither 0 nor 1; "
        "rename it or exclude it with patches.exclude"
    )


def test_other_files_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path / "1.training", "1-[100].png", "Thumbs.db", "._1-[100].png", ".hidden/1-[100].png", "readme.txt")
    assert list(claims(tmp_path, "wsss4luad")) == ["1-[100].png"]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "JPeG", "tif", "TIFF", "bmp"])
def test_image_suffixes(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path / "1.training", f"1-[100].{suffix}")
    assert claims(tmp_path, "wsss4luad")[f"1-[100].{suffix}"].classes == (0,)


def test_folders(tmp_path: Path) -> None:
    touch(tmp_path, "tumour/a.png", "TUM/deep/er/b.jpg", "stroma+tumour/c.png", "thumbnails/d.png", "e.png")
    found = claims(tmp_path, "folders")
    assert found["tumour/a.png"].classes == found["TUM/deep/er/b.jpg"].classes == (0,)
    assert found["stroma+tumour/c.png"].classes == (0, 1)
    assert [found[name].group for name in ("tumour/a.png", "TUM/deep/er/b.jpg")] == ["a", "b"]
    assert "label names 'thumbnails', which is not a class" in only_problem(found["thumbnails/d.png"])
    assert "it is not in a folder that names its classes" in only_problem(found["e.png"])


def test_labels_in_file_names(tmp_path: Path) -> None:
    touch(tmp_path, "TUM___TUM-1.png", "Normal_2.png", "deep/str+tum_3.png", "fat_4.png", "5.png")
    found = claims(tmp_path, "pattern", label_pattern=r"^(?P<label>[A-Za-z+]+)_")
    assert found["TUM___TUM-1.png"].classes == (0,) and found["Normal_2.png"].classes == (2,)
    assert found["deep/str+tum_3.png"].classes == (0, 1)
    assert found["deep/str+tum_3.png"].group == "str+tum_3"
    assert "label names 'fat', which is not a class" in only_problem(found["fat_4.png"])
    assert only_problem(found["5.png"]) == (
        "mislabelled: patch '5.png': patches.label_pattern '^(?P<label>[A-Za-z+]+)_' finds no label in its name "
        "without the suffix; rename it, change patches.label_pattern or exclude it with patches.exclude"
    )


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (None, "layout pattern needs patches.label_pattern, such as"),
        ("^([A-Z]+)_", r"label_pattern '\^\(\[A-Z\]\+\)_': put \(\?P<label> \) around the part that names the classes"),
    ],
)
def test_a_pattern_that_finds_no_labels_is_refused(tmp_path: Path, pattern: str | None, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        claims(touch(tmp_path, "TUM_1.png"), "pattern", label_pattern=pattern)


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "data/tumour/a.png", "elsewhere/b.png")
    (tmp_path / "data/stroma").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data/tumour/up").symlink_to(tmp_path / "data", target_is_directory=True)
    assert list(claims(tmp_path / "data", "folders")) == ["stroma/b.png", "tumour/a.png"]
    (tmp_path / "data/normal").symlink_to(tmp_path / "data/normal")
    with pytest.raises(CatalogError, match=r"data/normal: cannot be followed: .*remove this link"):
        claims(tmp_path / "data", "folders")


def test_group_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "tumour/case7_1.png", "tumour/other.png", "tumour/case_2.png")
    found = claims(tmp_path, "folders", group_pattern=r"case(\d*)_")
    assert found["tumour/case7_1.png"].group == "7"
    for name in ("tumour/other.png", "tumour/case_2.png"):
        message = only_problem(found[name])
        assert message.startswith("no_group: ")
        assert r"does not match the pattern 'case(\\d*)_'; set patches.group_pattern" in message


def test_a_group_pattern_overrides_the_published_one(tmp_path: Path) -> None:
    touch(tmp_path / "1.training", "a-b-[100].png", "c_d_[100].png")
    assert [claim.group for claim in claims(tmp_path, "wsss4luad", group_pattern="(.)").values()] == ["a", "c"]
    message = only_problem(claims(tmp_path, "wsss4luad")["c_d_[100].png"])
    assert repr(PUBLISHED["wsss4luad"].group_pattern) in message


def test_a_patch_may_have_two_problems(tmp_path: Path) -> None:
    touch(tmp_path / "1.training", "a.png")
    assert [problem.kind for problem in claims(tmp_path, "wsss4luad")["a.png"].problems] == ["mislabelled", "no_group"]


def test_exclude(tmp_path: Path) -> None:
    touch(tmp_path / "1.training", "1-[1, 0, 0].png", "2-[1, 2].png", "3-[0].png", "sub/4-[1, 0, 0].png")
    found = claims(tmp_path, "wsss4luad", exclude=["2-[1, 2].png", "3-*", "sub/*"])
    assert list(found) == ["1-[1, 0, 0].png"], "an id excludes itself though brackets mean a set to fnmatch"
    with pytest.raises(CatalogError, match=r"patches\.exclude excludes all 4 patches"):
        claims(tmp_path, "wsss4luad", exclude=["*"])
    with pytest.raises(CatalogError, match=r"exclude: '1\.training/3-\*' matches none of the 4 patches, whose ids are"):
        claims(tmp_path, "wsss4luad", exclude=["3-*", "1.training/3-*"])


@pytest.mark.parametrize("layout", ["wsss4luad", "folders", "csv"])
def test_missing_root(tmp_path: Path, layout: str) -> None:
    with pytest.raises(CatalogError, match=r"absent: .*set patches\.root"):
        claims(tmp_path / "absent", layout)


@pytest.mark.parametrize("layout", ["bcss-wsss", "folders", "csv"])
def test_roots_that_cannot_be_looked_at(tmp_path: Path, layout: str) -> None:
    with pytest.raises(CatalogError, match=r"x: (cannot be read: )?File name too long.*set patches\.root"):
        claims(tmp_path / ("x" * 300), layout)


def test_roots_of_the_wrong_kind(tmp_path: Path) -> None:
    table = write_csv(tmp_path, "path,labels\n")
    with pytest.raises(CatalogError, match="is not a folder, expected the data set's folder for layout folders"):
        claims(table, "folders")
    with pytest.raises(CatalogError, match=r"is a folder, expected a file; set patches\.root to the CSV file"):
        claims(tmp_path, "csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(CatalogError, match=r"is a named pipe, expected a file; set patches\.root"):
        claims(tmp_path / "pipe.csv", "csv")
    touch(tmp_path, "training/1-[100].png")
    with pytest.raises(CatalogError, match=r"neither a folder '1\.training' nor images"):
        claims(tmp_path, "wsss4luad")


def test_empty_data_sets(tmp_path: Path) -> None:
    touch(tmp_path / "1.training", "notes.txt")
    with pytest.raises(CatalogError, match=r"no patches found; expected files that end in \.png"):
        claims(tmp_path, "wsss4luad")
    with pytest.raises(CatalogError, match=r"in folders named by class \(tumour, stroma, normal\)"):
        claims(tmp_path, "folders")
    with pytest.raises(CatalogError, match="expected a row for each patch"):
        claims(write_csv(tmp_path, "path,labels\n"), "csv")


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(tmp_path: Path, bom: bytes, end: str) -> None:
    touch(tmp_path, "set/a.png", 'set/é, "x".jpg', "far/c.png", "set/deep/d.png")
    rows = [
        "group, Labels ,path,note",
        "p1,tumour,a.png,fine",
        'p2,"[0, 1, 1]","é, ""x"".jpg",',
        f",STR;TUM,{tmp_path}/far/c.png,",
        "",
        f",normal,{tmp_path}/set/deep/../deep/d.png,",
        ",,,",
    ]
    table = write_csv(tmp_path / "set", bom + end.join(rows).encode())
    found = claims(table, "csv")
    assert {name: (claim.classes, claim.group) for name, claim in found.items()} == {
        "a.png": ((0,), "p1"),
        'é, "x".jpg': ((1, 2), "p2"),
        f"{tmp_path}/far/c.png": ((0, 1), "c"),
        "deep/d.png": ((2,), "d"),
    }
    assert all(Path(claim.path).is_file() and not claim.problems for claim in found.values())


def test_csv_group_pattern_fills_empty_groups(tmp_path: Path) -> None:
    touch(tmp_path, "s1-a.png", "s2-b.png", "c.png")
    table = write_csv(tmp_path, "path,labels,group\ns1-a.png,TUM,\ns2-b.png,TUM,mine\nc.png,TUM,\n")
    found = claims(table, "csv", group_pattern="^([^-]+)-")
    assert (found["s1-a.png"].group, found["s2-b.png"].group) == ("s1", "mine")
    assert "(labels.csv line 4): no slide or patient" in only_problem(found["c.png"])


def test_csv_rows_with_problems(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.png" for name in "abcdefg"), "folder.png/x.txt")
    rows = [
        "path,labels,group",
        'a.png,"tumour\n",p',
        "b.png,,p",
        ",tumour,p",
        "gone.png,tumour,p",
        "./a.png,stroma,p",
        "c.png,[1, 0, 0],p",
        "d.png",
        "e.png,tumor,p",
        "folder.png,tumour,p",
        "x/../a.png,tumour,p",
        f"{'z' * 300}.png,tumour,p",
    ]
    patches = PatchesSection(root=str(write_csv(tmp_path, "\n".join(rows))), layout="csv")
    listed = read_layout(patches, LUNG)
    assert [claim.id for claim in listed if not claim.problems] == ["a.png"]
    messages = [f"{problem.kind}: {problem.message}" for claim in listed for problem in claim.problems]
    expected = [
        "duplicate: patch 'a.png' (labels.csv line 7): the path is already in line 2",
        "duplicate: patch 'a.png' (labels.csv line 12): the path is already in line 2",
        "mislabelled: patch 'b.png' (labels.csv line 4): the cell 'labels' is empty",
        "mislabelled: patch 'c.png' (labels.csv line 8): the row has 5 cells, expected 3: quote a cell",
        "mislabelled: patch 'd.png' (labels.csv line 9): the cell 'labels' is empty",
        "mislabelled: patch 'e.png' (labels.csv line 10): label names 'tumor', which is not a class",
        f"unreadable: patch 'folder.png' (labels.csv line 11): there is no file '{tmp_path}/folder.png'",
        f"unreadable: patch 'gone.png' (labels.csv line 6): there is no file '{tmp_path}/gone.png'",
        "no_path: patch 'labels.csv line 5': the cell 'path' is empty",
        "unreadable: patch 'zzz",
    ]
    for message, beginning in zip(messages, expected, strict=True):
        assert message.startswith(beginning)
        assert message.endswith("; correct the row or exclude it with patches.exclude")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "line 1: no column 'path', got nothing"),
        (b"path,label\n", "line 1: no column 'labels', got 'path', 'label'"),
        (b"\npath;labels;group\n", "line 2: no column 'path', got 'path;labels;group'"),
        (b"path,labels,path\n", "line 1: more than one column 'path'"),
        (b"path,labels\na.png,TUM\nb\xe9.png,TUM\n", "line 3: not UTF-8; save the table as CSV in UTF-8"),
        ("path,labels\n".encode("utf-16"), "line 1: not UTF-8"),
        (b'path,labels\na.png,TUM\n"b.png,TUM\n', "line 3: not valid CSV"),
    ],
)
def test_csv_that_is_no_table_of_patches(tmp_path: Path, content: bytes, fault: str) -> None:
    table = write_csv(tmp_path, content)
    with pytest.raises(CatalogError) as caught:
        claims(table, "csv")
    assert f"{table} {fault}" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("*[0, 0, 1].png", "brackets match one of the characters in them: write '*[[]0, 0, 1].png'"),
        ("1.training/sub/*", "an id begins below the folder of the patches: write 'sub/*'"),
        ("sub\\3-*", "folders are separated by /: write 'sub/3-*'"),
        ("3-[[]*", "an id has folders before the name: write '*/3-[[]*'"),
        ("nothing", "correct or remove it"),
    ],
)
def test_a_pattern_that_matches_nothing_is_shown_in_the_form_that_does(
    tmp_path: Path, pattern: str, advice: str
) -> None:
    touch(tmp_path / "1.training", "1-[1, 0, 0].png", "2-[0, 0, 1].png", "sub/3-[1, 0, 0].png")
    with pytest.raises(CatalogError) as caught:
        claims(tmp_path, "wsss4luad", exclude=[pattern])
    assert str(caught.value).endswith(f"matches none of the 3 patches, whose ids are like '1-[1, 0, 0].png'; {advice}")
    if "write" in advice:
        assert len(claims(tmp_path, "wsss4luad", exclude=[advice.split("'")[1]])) == 2


@pytest.mark.parametrize(
    ("root", "layout", "fits"),
    [
        ("set", "folders", "set patches.layout: wsss4luad"),
        ("set/1.training", "folders", "set patches.layout: wsss4luad"),
        ("set/2.validation", "wsss4luad", "set patches.root: {}/set"),
        ("", "wsss4luad", "set patches.root: {}/set"),
        ("classes", "folders", "set patches.root: {}/classes/train"),
        ("classes/train/tumour", "folders", "set patches.root: {}/classes/train"),
        ("classes/train", "wsss4luad", "set patches.layout: folders"),
        ("classes/train", "csv", "set patches.layout: folders"),
        ("tables", "csv", "set patches.root: {}/tables/labels.csv"),
        ("tables/labels.csv", "folders", "set patches.layout: csv"),
        ("classes/absent", "folders", "{}/classes holds the folders 'test', 'train'"),
    ],
)
def test_a_root_or_layout_that_does_not_fit_is_refused_with_settings_that_fit(
    tmp_path: Path, root: str, layout: str, fits: str
) -> None:
    touch(tmp_path / "set", "1.training/1-[1, 0, 0].png", "2.validation/img/00.png", "2.validation/mask/00.png")
    touch(tmp_path / "classes", *(f"{part}/{name}/a.png" for part in ("train", "test") for name in ("TUM", "tumour")))
    write_csv(tmp_path, "path,labels\n").rename(touch(tmp_path / "tables", "note.txt") / "labels.csv")
    with pytest.raises(CatalogError) as caught:
        claims(tmp_path / root, layout)
    assert str(caught.value).startswith(f"{tmp_path / root}: ")
    assert str(caught.value).endswith(fits.format(tmp_path)), caught.value
    assert " holds " in str(caught.value)


def test_a_folder_with_nearly_a_class_name_is_refused_with_the_name(tmp_path: Path) -> None:
    touch(tmp_path, "Tumours/a.png", "STROMA /b.png", "Normals/c.png", "fat/d.png")
    found = claims(tmp_path, "folders")
    assert "names 'Tumours', which is not a class (did you mean 'tumour'?), expected tumour (or TUM), stroma" in (
        only_problem(found["Tumours/a.png"])
    )
    assert "(did you mean 'normal'?)" in only_problem(found["Normals/c.png"])
    assert found["STROMA /b.png"].classes == (1,), "case does not matter, nor do blanks at the ends"
    assert "names 'fat', which is not a class, expected tumour" in only_problem(found["fat/d.png"])


def test_paths_of_windows_are_refused_with_slashes_as_advice(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.png", "back\\slash.png")
    table = write_csv(tmp_path, "path,labels\nset\\a.png,TUM\nC:\\set\\b.png,TUM\nback\\slash.png,TUM\n")
    found = claims(table, "csv")
    assert "(paths begin at the folder of the CSV): separate folders by / instead of \\, as in 'set/a.png'" in (
        only_problem(found["set\\a.png"])
    )
    assert "instead of \\, without 'C:', as in '/set/b.png'" in only_problem(found["C:\\set\\b.png"])
    assert not found["back\\slash.png"].problems
