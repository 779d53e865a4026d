"""`synthpipe inspect`: for people, for machines, at URLs, of what is half made, and of single composites."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from PIL import Image as PillowImage
from upath import UPath

from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.core.pictures import overlay
from synthpipe.core.records import PatchRef
from synthpipe.curated import CuratedSet, begin_pseudo_labelled, write_pseudo_labelled
from synthpipe.patches.catalog import load_catalog
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from tests.conftest import SMALL, pipeline


def inspect(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)], **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    write_phantom(folder / "phantom", PhantomSpec(slides=4, patches=60, size=48, images=1))
    for patch in sorted((folder / "phantom" / "1.training").iterdir())[:30]:
        patch.rename(patch.with_name(patch.name.replace("-[", "-\x1b[31m\u202e<b>-[")))  # would steer a terminal
    settings = pipeline(*SMALL, "filter.enabled=false", f"patches.root={folder / 'phantom'}")
    build(settings, folder / "run", ClusterSettings(Local(0)), LogReporter())
    return folder / "run"


def test_a_tree_with_shapes_chunks_codecs_and_sizes(run: Path) -> None:
    text = inspect(run).stdout
    lines = text.splitlines()
    assert lines[0] == f"{run}: run of demo, finished" and "  Mosaic: 12 candidates" in lines
    assert re.search(r"^  fingerprint  [0-9a-f]{64}$", text, re.MULTILINE) and "zarr 3." in text
    assert "    verdicts: 12 kept" in lines and "    kept pixels: tumour" in text and "    donors: " in text
    image = r"image +uint8 +24 x 32 x 32 x 3 +3 of 3 shards, [0-9.]+ KiB +chunk 1 x 32 x 32 x 3, shard 8, bytes\+crc32c"
    assert re.search(image, text)
    assert re.search(r"mask .* bytes\+blosc-lz4\+crc32c", text) and re.search(r"recipe .* vlen-utf8\+zstd", text)
    assert "\x1b" not in text and text.isascii()


def test_a_store_tells_what_its_composites_are(run: Path) -> None:
    group = zarr.open_group(run / "candidates.zarr" / "mosaic", mode="r")
    pixels = np.asarray(group["class_pixels"][:])  # type: ignore[index]
    found = json.loads(inspect(run / "candidates.zarr", "--json").stdout)["groups"]["mosaic"]["contents"]
    assert found["class_share"]["stroma"] == pytest.approx(pixels.sum(0)[1] / pixels.sum())
    assert found["verdicts"]["kept"] == 12
    curated = json.loads(inspect(run / "curated.zarr", "--json").stdout)["contents"]
    labels = CuratedSet(run / "curated.zarr").labels
    assert list(curated["class_occurrence"].values()) == pytest.approx(labels.mean(0).tolist())
    assert curated["strategies"] == {"mosaic": 12, "bezier": 12} and curated["p_real"] == {"count": 0}
    text = inspect(run / "curated.zarr").stdout
    assert "strategies: 12 Mosaic, 12 Bezier" in text and "pixels of 24 masks: tumour" in text
    set_ = CuratedSet(run / "curated.zarr")
    shares = set_.class_pixels.sum(0) / set_.class_pixels.sum()
    assert list(curated["class_share"].values()) == pytest.approx(shares.tolist())
    used = len(np.unique(set_.donor_groups[set_.donor_groups >= 0]))
    assert curated["slides"] == {"used": used, "known": len(set_.groups)}
    assert f"slides or patients: {used} of {len(set_.groups)} used" in text


def test_a_run_that_is_being_built(run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(run, tmp_path / "run"))
    RunDirectory(path).reopen()
    (path / "build.json").unlink()
    shutil.rmtree(path / "curated.zarr")
    (path / "candidates.zarr" / "mosaic" / "image" / "c.0.0.0.0").unlink()
    (path / "candidates.zarr" / "mosaic" / "class_pixels" / "c.0.0").unlink()
    shutil.rmtree(path / "candidates.zarr" / "bezier")
    (path / "candidates.zarr" / "bezier").mkdir()
    text = inspect(path).stdout
    assert "not finished; `synthpipe status`" in text and "1 of 2 shards" in text and "pixels: tumour" in text
    result = inspect(path, "--index", 1)
    assert result.exit_code == 1 and "has no curated set yet; give a store of candidates instead: " in result.stderr
    mosaic = path / "candidates.zarr" / "mosaic"
    assert "0 of" not in inspect(mosaic, "--sheet", tmp_path / "sheet.png").stdout
    found = json.loads(inspect(mosaic, "--sheet", tmp_path / "sheet.png", "--json").stdout)
    assert [each["index"] for each in found["samples"]] == [8, 9, 10, 11]
    for file in mosaic.glob("image/c.*"):
        file.unlink()
    assert "no composite is stored yet" in inspect(mosaic, "--sheet", tmp_path / "sheet.png").stderr


def test_an_array_that_is_just_being_made_is_passed_over(run: Path, tmp_path: Path) -> None:
    """Its folder is there, its metadata not yet: status and inspect say nothing of it."""
    path = Path(shutil.copytree(run, tmp_path / "run"))
    RunDirectory(path).reopen()
    (path / "candidates.zarr" / "mosaic" / "recipe" / "zarr.json").unlink()
    for command in (["inspect"], ["status"], ["inspect", "--json"], ["status", "--json"]):
        result = CliRunner().invoke(main, [*command, str(path)])
        assert result.exit_code == 0 and not result.stderr, result.output


def test_a_composite_with_the_patch_of_each_region(run: Path) -> None:
    catalog = load_catalog(run, RunDirectory(run).pipeline().taxonomy)
    result = inspect(run, "--index", "0,5", "--index", "12-13", "--json")
    samples = json.loads(result.stdout)["samples"]
    assert [each["index"] for each in samples] == [0, 5, 12, 13]
    assert "--index 5-2: a range goes up; did you mean 2-5?" in inspect(run, "--index", "0,5-2").stderr
    names = RunDirectory(run).pipeline().taxonomy.names
    for each in samples:
        assert sum(region["share"] for region in each["regions"]) == pytest.approx(1)
        assert sum(each["class_share"].values()) == pytest.approx(1)
        assert each["recipe"]["strategy"] in each["origin"]
        for region in each["regions"]:
            patch = catalog.by_id(region["patch"])
            assert region["class"] in (names[patch.classes[0]], "background")
    text = inspect(run, "--index", 12).stdout
    assert re.match(r"12: Bezier \d+, 32 x 32 pixels\n", text)
    lines = text.splitlines()
    drawn = lines[2:18]
    assert all(re.fullmatch("  [AB]{32}", line) for line in drawn)
    share = sum(line.count("A") for line in drawn) / (16 * 32)
    (told,) = (float(match[1]) for match in map(re.compile(r"  A +([0-9.]+)%").match, lines) if match)
    assert 100 * share == pytest.approx(told, abs=5)


def test_names_do_not_steer_a_terminal(run: Path) -> None:
    """On a terminal, in colours, every escape that is printed is a colour of ours."""
    text = inspect(run, "--index", "0-23", color=True).stdout
    assert r"\x1b[31m\u202e<b>" in text and "\u202e" not in text
    plain = re.sub(r"\x1b\[(0|[34]8;2;\d+;\d+;\d+)m", "", text)
    assert plain != text and "\x1b" not in plain
    for setting in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in inspect(run, "--index", "0-23", color=True, env=setting).stdout


def test_in_a_pipe_that_closes_early(run: Path) -> None:
    command = f"{sys.executable} -m synthpipe inspect '{run}' --index 0-20 | head -n 1"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert result.stdout.startswith("0: Mosaic") and "Traceback" not in result.stderr


def test_the_sheet_shows_image_mask_and_overlay(run: Path, tmp_path: Path) -> None:
    result = inspect(run, "--sheet", tmp_path / "sheet.png", "--index", 3)
    assert result.exit_code == 0 and f"{tmp_path / 'sheet.png'}: 1 of 24 composites" in result.stdout
    sheet = np.asarray(PillowImage.open(tmp_path / "sheet.png").convert("RGB"))
    curated = CuratedSet(run / "curated.zarr")
    sample = curated[3]
    colors = np.array([each.color for each in curated.taxonomy.classes] + [curated.taxonomy.background_color], np.uint8)
    wanted = (sample.image, colors[sample.mask], overlay(sample.image, sample.mask, curated.taxonomy))
    row = np.hstack([np.pad(part.repeat(4, 0).repeat(4, 1), ((0, 0), (0, 4), (0, 0))) for part in wanted])[:, :-4]
    for part in range(3):
        picture = row[:, part * 132 : part * 132 + 128]
        assert any(
            np.array_equal(sheet[y : y + 128, 16 + part * 132 : 144 + part * 132], picture) for y in range(20, 120)
        )
    for color in colors:
        assert (sheet[20:70] == color).all(2).sum() > 100  # the legend
    assert inspect(run, "--sheet", tmp_path / "all.png").stdout.endswith("24 of 24 composites\n")
    with PillowImage.open(tmp_path / "all.png") as every:
        assert every.size[1] > 8 * 128


def test_real_patches_with_predicted_masks(run: Path, tmp_path: Path) -> None:
    curated = CuratedSet(run / "curated.zarr")
    patches = [PatchRef(f"{n}.png", f"/{n}.png", "0" * 64, (0,), 32, 32, "slide") for n in range(3)]
    begin_pseudo_labelled(tmp_path / "pseudo.zarr", curated.description, {"checkpoint": "x"}, patches)
    images, masks = curated.read([0, 1, 2])
    write_pseudo_labelled(tmp_path / "pseudo.zarr", 0, patches, images, masks)
    text = inspect(tmp_path / "pseudo.zarr", "--index", 2, "--sheet", tmp_path / "sheet.png").stdout
    assert "2: 2.png, 32 x 32 pixels" in text and f"patch 2.png, sha256 {'0' * 64}" in text
    assert json.loads(inspect(tmp_path / "pseudo.zarr", "--index", 2, "--json").stdout)["samples"][0]["regions"] == []
    assert "strategies: 3 real patches" in inspect(tmp_path / "pseudo.zarr").stdout


def test_at_a_url(run: Path) -> None:
    target = UPath("memory://inspected/run")
    for file in run.rglob("*"):
        if file.is_file():
            target.fs.pipe_file(f"{target.path}/{file.relative_to(run).as_posix()}", file.read_bytes())
    here, there = inspect(run).stdout, inspect(target).stdout
    assert there.replace("memory://inspected/run", str(run)) == here
    assert inspect(f"{target}/candidates.zarr/bezier", "--index", 2).stdout.startswith("2: Bezier 2, kept")
    sheet = f"{target}/sheet.png"
    assert inspect(target, "--sheet", sheet).exit_code == 0
    assert PillowImage.open(io.BytesIO(UPath(sheet).read_bytes())).format == "PNG"


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("x", "--index x: expected an index such as 3, several as 3,7, or a range such as 10-19"),
        ("-1", "--index -1: expected an index"),
        ("24", "curated.zarr: no sample 24; there are 24, counted from 0"),
        ("0-99999999999", "more than 300 composites"),
    ],
)
def test_what_cannot_be_shown(run: Path, samples: str, message: str) -> None:
    result = inspect(run, f"--index={samples}")
    assert result.exit_code == 1 and message in result.stderr and "Traceback" not in result.output


def test_a_sheet_that_cannot_be_written(run: Path) -> None:
    result = inspect(run, "--sheet", run / "run.json" / "sheet.png")
    assert result.exit_code == 1 and "run.json/sheet.png: cannot be written" in result.stderr


def test_a_store_of_groups_names_them(run: Path) -> None:
    result = inspect(run / "candidates.zarr", "--index", 1)
    assert result.exit_code == 1 and "give one of its groups (bezier, mosaic), or" in result.stderr
