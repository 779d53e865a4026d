"""The catalog reads and checks every file, and reports the problems."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthpipe.build import remarks
from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.errors import CatalogError, StoreError
from synthpipe.core.records import PatchRef
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.patches.catalog import (
    Catalog,
    load_catalog,
    read_catalog,
    survey,
    write_catalog,
)
from synthpipe.patches.claims import Problem, problem_lines
from synthpipe.patches.layouts import read_layout
from synthpipe.patches.pixels import decode
from tests.conftest import Watched, pipeline

LUNG = Taxonomy(
    (
        TissueClass("tumour", (0, 64, 128), ("TUM",)),
        TissueClass("stroma", (64, 128, 0), ("STR",)),
        TissueClass("normal", (243, 152, 0)),
    )
)


def tissue(seed: int, height: int = 12, width: int = 10) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int, height: int = 12, width: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(tissue(seed, height, width)).save(path)
    return path


def section(root: Path, **settings: Any) -> PatchesSection:
    return PatchesSection.model_validate({"root": str(root), "layout": "wsss4luad", **settings})


def names_in(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set" / "1.training"
    save(folder / "s1-1-[1, 0, 0].png", 1)
    save(folder / "s1-2-[0, 1, 0].png", 2, 7, 9)
    save(folder / "s2-1-[0, 1, 0].png", 3)
    save(folder / "s2-2-[1, 1, 0].png", 4)
    return tmp_path / "set"


def test_catalog(root: Path) -> None:
    calls: list[None] = []
    catalog = read_catalog(section(root), LUNG, on_patch=lambda: calls.append(None))
    assert [patch.id for patch in catalog.patches] == names_in(root / "1.training")
    assert len(calls) == 4
    path = root / "1.training" / "s1-2-[0, 1, 0].png"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = PatchRef("s1-2-[0, 1, 0].png", str(path), sha256, (1,), 7, 9, "s1")
    assert catalog.by_id("s1-2-[0, 1, 0].png") == expected
    assert [patch.classes for patch in catalog.donors] == [(0,), (1,), (1,)]
    assert [patch.id for patch in catalog.mixed] == ["s2-2-[1, 1, 0].png"]
    assert catalog.counts() == {(0,): 1, (1,): 2, (0, 1): 1}
    assert catalog.groups == ("s1", "s2")
    assert catalog.problems == ()
    for unknown in ("", "s1-1", "zzz"):
        with pytest.raises(CatalogError, match="not among the 4"):
            catalog.by_id(unknown)


def test_catalog_depends_on_files_alone(root: Path, tmp_path: Path) -> None:
    """The order of files, the number of threads and the location of the folder do not matter."""
    names = names_in(root / "1.training")
    copies = []
    for number, order in enumerate((names, names[::-1])):
        folder = tmp_path / f"copy{number}" / "1.training"
        folder.mkdir(parents=True)
        for name in order:
            shutil.copy(root / "1.training" / name, folder / name)
        shutil.copy(folder / names[-1], folder / "s9-[1, 1, 0].png")
        shutil.copy(folder / names[-1], folder / "s8-[1, 1, 0].png")
        copies.append(survey(section(tmp_path / f"copy{number}"), LUNG, threads=1 + 7 * number))
    assert copies[0].digest == copies[1].digest
    assert copies[0].problems == copies[1].problems
    assert [problem.id for problem in copies[0].problems] == ["s8-[1, 1, 0].png", "s9-[1, 1, 0].png"]
    assert all("holds the same bytes as 's2-2-[1, 1, 0].png'" in problem.message for problem in copies[0].problems)


def test_few_patches_are_under_way_at_a_time(root: Path) -> None:
    claims, done = Watched(read_layout(section(root), LUNG) * 50), 0

    def on_patch() -> None:
        nonlocal done
        assert claims.taken - done <= 12
        done += 1

    survey(section(root), LUNG, on_patch, threads=4, claims=claims)
    assert claims.taken == done == 200


def test_dark_patches_are_named_once(root: Path) -> None:
    twelve = np.random.default_rng(0).integers(0, 4096, (8, 9), dtype=np.uint16)
    for name, values in {"s3-1": twelve, "s3-2": twelve[::-1].T, "s3-3": twelve * 16}.items():
        PIL.Image.fromarray(values).save(root / "1.training" / f"{name}-[1, 0, 0].png")
    catalog = survey(section(root), LUNG)
    assert len(catalog.patches) == 7
    (remark,) = (each for each in remarks(pipeline(), catalog) if "16-bit" in each)
    assert remark.startswith(
        "s3-1-[1, 0, 0].png and 1 more: 16-bit values below a tenth of the range are read as nearly"
    )


def test_digest_is_of_ids_bytes_classes_and_groups() -> None:
    patch = PatchRef("a", "/x/a", "0" * 64, (0,), 5, 6, "g")
    digest = Catalog((patch,)).digest
    assert len(digest) == 64
    assert Catalog((replace(patch, path="/y/a"),)).digest == digest
    changed: list[dict[str, Any]] = [{"id": "b"}, {"sha256": "1" * 64}, {"classes": (1,)}, {"group": "h"}]
    assert all(Catalog((replace(patch, **change),)).digest != digest for change in changed)


def test_problems_stop_or_are_skipped(root: Path) -> None:
    folder = root / "1.training"
    data = (folder / "s1-1-[1, 0, 0].png").read_bytes()
    (folder / "s3-1-[1, 0, 0].png").write_bytes(data[: len(data) // 2])
    (folder / "s3-2-[1, 0, 0].png").write_bytes(b"")
    (folder / "s3-3-[1, 0, 0].png").write_text("<html>")
    (folder / "s3-4-[0, 1, 0].png").write_bytes(data)
    (folder / "s3-5-[1, 2].png").write_bytes(data)
    (folder / "s3-6-[1, 0, 0].png").symlink_to(folder / "gone.png")
    (folder / "s3_7_[1, 0, 0].png").write_bytes(data)
    expected = [
        (
            "duplicate",
            "patch 's1-1-[1, 0, 0].png': holds the same bytes as 's3-4-[0, 1, 0].png', but is labelled tumour, not "
            "stroma; neither is used: delete",
        ),
        ("unreadable", "patch 's3-1-[1, 0, 0].png': is truncated: its chunk IDAT ends after the end of the file"),
        ("unreadable", "patch 's3-2-[1, 0, 0].png': is empty, expected PNG, JPEG, TIFF or BMP; replace it"),
        ("unreadable", "patch 's3-3-[1, 0, 0].png': is not an image, expected PNG"),
        (
            "duplicate",
            "patch 's3-4-[0, 1, 0].png': holds the same bytes as 's1-1-[1, 0, 0].png', but is labelled stroma, "
            "not tumour; neither is used: delete one of them or exclude it with patches.exclude",
        ),
        ("mislabelled", "patch 's3-5-[1, 2].png': label holds '2', which is neither 0 nor 1; rename it"),
        ("unreadable", "patch 's3-6-[1, 0, 0].png': cannot be read: No such file or directory; replace it"),
        ("no_group", "patch 's3_7_[1, 0, 0].png': no slide or patient"),
    ]
    skipped = read_catalog(section(root, on_error="skip"), LUNG)
    assert skipped == survey(section(root), LUNG)
    assert [patch.id[:4] for patch in skipped.patches] == ["s1-2", "s2-1", "s2-2"]
    for problem, (kind, beginning) in zip(skipped.problems, expected, strict=True):
        assert problem.kind == kind
        assert problem.message.startswith(beginning)

    with pytest.raises(CatalogError) as caught:
        read_catalog(section(root), LUNG)
    assert str(caught.value).startswith(f"{root}: 8 problems in 11 patches\n")
    assert all(problem.message in str(caught.value) for problem in skipped.problems)
    assert "set patches.on_error: skip" in str(caught.value)

    clean = read_catalog(section(root, exclude=["s3*"]), LUNG)
    assert len(clean.patches) == 4, "without the other, a picture of two labels has one"
    assert clean.problems == ()


def test_a_patch_with_problems_makes_no_duplicate_of_another(root: Path) -> None:
    folder = root / "1.training"
    shutil.copy(folder / "s1-1-[1, 0, 0].png", folder / "a-[1, 9].png")
    assert [problem.kind for problem in survey(section(root), LUNG).problems] == ["mislabelled"]


def test_long_lists_are_cut(root: Path) -> None:
    for number in range(23):
        (root / "1.training" / f"t-{number:02}-[x{number}].png").touch()
    with pytest.raises(CatalogError) as caught:
        read_catalog(section(root), LUNG)
    assert "t-19-" in str(caught.value)
    assert "t-20-" not in str(caught.value)
    assert "and 3 other problems" in str(caught.value)


def test_equal_problems_are_one_line_with_their_count(root: Path) -> None:
    for number in range(100):
        (root / "1.training" / f"t-{number:03}-[1, 0, 0].png").touch()
        shutil.copy(root / "1.training" / "s2-2-[1, 1, 0].png", root / "1.training" / f"u-{number:03}-[1, 1, 0].png")
    problems = survey(section(root), LUNG).problems
    assert len(problems) == 200
    empty, double = problem_lines(problems)
    assert empty.startswith(
        "100 x unreadable: patch 't-000-[1, 0, 0].png': is empty, expected PNG, JPEG, TIFF or BMP; "
    )
    assert empty.endswith("; the same holds for 't-001-[1, 0, 0].png', 't-002-[1, 0, 0].png' and 97 more")
    assert double.startswith(
        "100 x duplicate: patch 'u-000-[1, 1, 0].png': holds the same bytes as 's2-2-[1, 1, 0].png'"
    )
    assert double.endswith("; the same holds for 'u-001-[1, 1, 0].png', 'u-002-[1, 1, 0].png' and 97 more")


def test_no_usable_patch_is_an_error_though_problems_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "x-[1, 0, 0].png").touch()
    with pytest.raises(CatalogError, match=r"1 problem in 1 patch\n(.|\n)*no usable patch is left"):
        read_catalog(section(tmp_path, on_error="skip"), LUNG)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_formats_decode_as_they_are(tmp_path: Path, suffix: str) -> None:
    image = decode(save(tmp_path / f"a.{suffix}", 5))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert np.array_equal(image, tissue(5))


@pytest.mark.filterwarnings("error")
def test_other_pixels_decode_to_rgb(tmp_path: Path) -> None:
    rgb = PIL.Image.fromarray(tissue(6))
    grey = np.asarray(rgb.convert("L"))
    palette = rgb.quantize(16)
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 256 + 99)
    cases = {
        "grey.png": (rgb.convert("L"), np.dstack([grey] * 3)),
        "grey-alpha.png": (rgb.convert("LA"), np.dstack([grey] * 3)),
        "deep.png": (deep, np.dstack([grey] * 3)),
        "deep.tif": (deep, np.dstack([grey] * 3)),
        "alpha.png": (rgb.convert("RGBA"), tissue(6)),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "bits.png": (PIL.Image.fromarray(grey > 127), np.dstack([(grey > 127) * np.uint8(255)] * 3)),
    }
    for name, (source, expected) in cases.items():
        source.save(tmp_path / name)
        assert np.array_equal(decode(tmp_path / name), expected), name
    for name, source in {"cmyk.jpg": rgb.convert("CMYK"), "grey.jpg": rgb.convert("L"), "rgb.jpeg": rgb}.items():
        source.save(tmp_path / name)
        image = decode(tmp_path / name)
        assert image.dtype == np.uint8
        assert np.abs(image.mean(axis=2) - np.asarray(source.convert("RGB")).mean(axis=2)).mean() < 40


def png(width: int, height: int, depth: int, kind: int, pixels: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in tissue(7).astype(np.uint16) * 256 + 200)
    (tmp_path / "deep.png").write_bytes(png(10, 12, 16, 2, rows))
    assert np.array_equal(decode(tmp_path / "deep.png"), tissue(7))


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_decompression_bombs_are_not_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png(side, side, 1, 0, b"\0" * 100))
    with pytest.raises(CatalogError, match=r"bomb\.png: .*pixels"):
        decode(tmp_path / "bomb.png")


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    floats = tmp_path / "floats.tif"
    PIL.Image.fromarray(np.zeros((4, 4), np.float32)).save(floats)
    with pytest.raises(CatalogError, match=r"floats\.tif: has floating-point numbers as pixels"):
        decode(floats)
    with pytest.raises(CatalogError, match=r"gone\.png: cannot be read: No such file"):
        decode(tmp_path / "gone.png")
    disguised = tmp_path / "gif.png"
    PIL.Image.fromarray(tissue(1)).save(disguised, format="GIF")
    with pytest.raises(CatalogError, match=r"gif\.png: is not an image, expected PNG, JPEG, TIFF or BMP"):
        decode(disguised)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated_files_are_found(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", 8, 40, 40)
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CatalogError, match=rf"a\.{suffix}: "):
            decode(path)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
PATCHES = st.builds(
    PatchRef,
    id=NAMES,
    path=NAMES,
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    classes=st.sampled_from([(0,), (2,), (0, 1), (0, 1, 2)]),
    height=st.integers(1, 10**6),
    width=st.integers(1, 10**6),
    group=NAMES,
)
PROBLEMS = st.builds(Problem, NAMES, st.sampled_from(["unreadable", "mislabelled", "no_group", "duplicate"]), NAMES)


@settings(max_examples=60, deadline=None)
@given(st.lists(PATCHES, unique_by=lambda patch: patch.id, max_size=5), st.lists(PROBLEMS, max_size=3))
def test_written_catalogs_read_back(patches: list[PatchRef], problems: list[Problem]) -> None:
    catalog = Catalog(tuple(sorted(patches, key=lambda patch: patch.id)), tuple(problems))
    with tempfile.TemporaryDirectory() as folder:
        write_catalog(catalog, LUNG, Path(folder))
        assert load_catalog(Path(folder), LUNG) == catalog
        assert names_in(folder) == ["catalog.csv", "problems.csv"]


def test_hostile_names_go_all_the_way(tmp_path: Path) -> None:
    names = [
        'quo"ted, comma-[1, 0, 0].png',
        "line\nbreak\r\n-[1, 0, 0].png",
        "Gewebe-é組織-[1, 0, 0].png",
        os.fsdecode(b"latin-\xe9-[1, 0, 0].png"),
        " =cmd()-'-[1, 0, 0].png",
        "=cmd()-[1, 0, 0].png",
        "'@sum-[1, 0, 0].png",
    ]
    for seed, name in enumerate(names):
        save(tmp_path / "1.training" / name, seed)
    (tmp_path / "1.training" / "line\nbreak-[2, 0, 0].png").touch()
    catalog = survey(section(tmp_path), LUNG)
    assert sorted(patch.id for patch in catalog.patches) == sorted(names)
    assert len(catalog.problems) == 1
    write_catalog(catalog, LUNG, tmp_path / "run")
    assert load_catalog(tmp_path / "run", LUNG) == catalog
    with (tmp_path / "run" / "catalog.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as table:
        assert all(not cell.startswith(("=", "@", "+", "-")) for row in csv.reader(table) for cell in row)
    assert all(np.array_equal(decode(catalog.by_id(name).path), tissue(seed)) for seed, name in enumerate(names))


def test_the_catalog_file_is_a_plain_table(root: Path, tmp_path: Path) -> None:
    write_catalog(read_catalog(section(root), LUNG), LUNG, tmp_path / "run")
    lines = (tmp_path / "run" / "catalog.csv").read_text().splitlines()
    assert lines[0] == "id,path,sha256,classes,height,width,group"
    assert lines[4].startswith('"s2-2-[1, 1, 0].png",')
    assert lines[4].endswith(",tumour+stroma,12,10,s2")
    assert (tmp_path / "run" / "problems.csv").read_text().splitlines() == ["id,kind,message"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("id,path", "id;path", "line 1: the header is"),
        ("tumour,12,10,s1", "necrosis,12,10,s1", "line 2: label names 'necrosis', which is not a class"),
        ("stroma,7,9,s1", "stroma,7,-9,s1", "line 3: width is '-9'"),
        ("stroma,7,9,s1", "stroma,7", "line 3: it has 5 cells, expected 7"),
        ("stroma,7,9,s1", "stroma,7,9,", "line 3: group is ''"),
        ('"s2-1-', '"a-', "line 4: id 'a-[0, 1, 0].png' is out of order"),
        ("12,10,s2\r\n", '12,10,"s2\r\n', "line 4: "),
    ],
)
def test_damaged_catalogs_are_named_by_line(root: Path, tmp_path: Path, old: str, new: str, fault: str) -> None:
    write_catalog(read_catalog(section(root), LUNG), LUNG, tmp_path / "run")
    path = tmp_path / "run" / "catalog.csv"
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(StoreError) as caught:
        load_catalog(tmp_path / "run", LUNG)
    assert f"{path} {fault}" in str(caught.value)


def test_missing_garbled_and_empty_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"catalog\.csv: cannot be read: No such file"):
        load_catalog(tmp_path / "run", LUNG)
    write_catalog(read_catalog(section(root), LUNG), LUNG, tmp_path / "run")
    problems = tmp_path / "run" / "problems.csv"
    problems.write_text("id,kind,message\na,odd,b\n")
    with pytest.raises(StoreError, match=r"problems\.csv line 2: kind is 'odd'"):
        load_catalog(tmp_path / "run", LUNG)
    problems.write_bytes(b"")
    with pytest.raises(StoreError, match=r"problems\.csv line 1: it is empty"):
        load_catalog(tmp_path / "run", LUNG)
    problems.write_bytes(bytes(range(256)))
    with pytest.raises(StoreError, match=r"problems\.csv line 1: "):
        load_catalog(tmp_path / "run", LUNG)


def test_a_catalog_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    catalog = read_catalog(section(root), LUNG)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written"):
        write_catalog(catalog, LUNG, tmp_path / "file")
    (tmp_path / "run" / "catalog.csv").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"catalog\.csv: is a folder, expected a file"):
        write_catalog(catalog, LUNG, tmp_path / "run")
    assert names_in(tmp_path / "run") == ["catalog.csv", "problems.csv"], "no temporary file stays"


@pytest.mark.parametrize("name", ["catalog.csv", "problems.csv"])
def test_a_pipe_in_place_of_a_table_is_refused_not_waited_for(tmp_path: Path, root: Path, name: str) -> None:
    write_catalog(survey(section(root), LUNG), LUNG, tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match=f"{name}: cannot be read: is a named pipe, expected a file"):
        load_catalog(tmp_path, LUNG)
