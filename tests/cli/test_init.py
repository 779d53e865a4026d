"""`synthpipe init`, and that what it writes builds as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from synthpipe.cli import main
from synthpipe.config.pipeline_file import load
from synthpipe.patches.phantom import PhantomSpec, write_phantom


def synthpipe(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(folder: Path, names: Sequence[str], side: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(rng.integers(0, 256, (side, side + 3, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_from_file_names_to_a_curated_set(place: Path) -> None:
    names = [f"{label}___{label}-TCGA-{number}.png" for label in ("ADI", "LYM", "MUS") for number in range(4)]
    result = synthpipe("init", draw(place / "own patches", names))
    assert result.exit_code == 0, result.output
    assert f"own-patches.yaml: written for 12 patches in {place / 'own patches'}\n" in result.stdout
    assert "  layout: pattern, labels from file names, ^(?P<label>[A-Z+]+)_\n" in result.stdout
    assert "  ADI: in 4 patches, alone in 4\n" in result.stdout and "slides: none found in file names" in result.stdout
    assert "filter: off; a filter needs patches of several classes, but there are none" in result.stdout
    commands = [line.strip() for line in result.stdout.partition("Next:\n")[2].splitlines()]
    assert commands == [
        "synthpipe build own-patches.yaml --dry-run",
        "synthpipe build own-patches.yaml -o runs/own-patches",
    ]
    found = load("own-patches.yaml")
    assert found.taxonomy.names == ("ADI", "LYM", "MUS") and found.canvas == (40, 40) and not found.filter.enabled
    assert found.curation.wanted == {"mosaic": 120, "bezier": 120}
    assert synthpipe(*shlex.split(commands[0])[1:]).exit_code == 0
    built = synthpipe(*shlex.split(commands[1])[1:], "--workers", 0)
    assert built.exit_code == 0 and "a curated set of 240 composites" in built.stdout, built.output


def test_the_file_says_whether_patches_can_train_a_filter(place: Path) -> None:
    write_phantom(place / "phantom", PhantomSpec(slides=4, patches=60, size=48, images=1))
    assert synthpipe("init", "phantom", "-o", "new/p.yaml").exit_code == 0
    found, text = load("new/p.yaml"), Path("new/p.yaml").read_text()
    assert not found.filter.enabled and "patches of several classes train a filter, as published" in text
    assert synthpipe("build", "new/p.yaml", "--set", "filter.enabled=true", "--dry-run").exit_code == 0
    assert found.taxonomy.classes[0].color == (0, 64, 128), "as published"
    assert found.glass and found.bezier and found.bezier.pairs and ("tumour", "stroma") in found.bezier.pairs
    assert "# pipelines/wsss4luad.yaml has the settings of the published data set.\n" in text
    assert synthpipe("build", "new/p.yaml", "--dry-run").exit_code == 0


def test_folders_with_slides_masks_and_names_that_classes_cannot_have(place: Path) -> None:
    names = [f"{label}/s{slide}_{n}.png" for label in ("Üß", "fat", "fat+Üß") for slide in (1, 2) for n in (1, 2)]
    draw(place / "set", [*names, "masks/s1_1.png", "fat/masks/s2_2.png"])
    assert synthpipe("init", "set").exit_code == 0
    found, text = load("set.yaml"), Path("set.yaml").read_text(encoding="utf-8")
    assert [(spec.name, spec.aliases) for spec in found.classes] == [("fat", ()), ("class 1", ("Üß",))]
    assert found.patches.exclude == ("masks/*",) and found.patches.group_pattern == r"^(.+?)[-_]\d+$"
    assert found.patches.on_error == "skip" and "on_error: skip # 1 problem, see" in text
    assert "# 2 slides or patients" in text
    assert synthpipe("build", "set.yaml", "--dry-run").exit_code == 0


def test_a_folder_that_is_named_by_a_dot_or_has_dots_gives_its_whole_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw(place / "-set.v1", ["A/1.png", "B/1.png", "A/2.png", "B/2.png"])
    monkeypatch.chdir(folder)
    result = synthpipe("init", ".")
    assert (folder / "set.v1.yaml").exists(), result.output
    assert "each name counts as one" in result.stdout, "1.png of A and of B share a group"


def test_nothing_is_overwritten_and_nothing_is_written_that_cannot_build(place: Path) -> None:
    draw(place / "set", ["A/1.png", "A/2.png", "A+B/3.png", "A+B/4.png"])
    result = synthpipe("init", "set")
    assert result.exit_code == 1 and "single-class patches show only A" in result.stderr
    assert not Path("set.yaml").exists()
    result = synthpipe("init", "set", "--classes", "A,C")
    assert result.exit_code == 1 and "label names 'B', which is not a class, expected A, C" in result.stderr
    result = synthpipe("init", draw(place / "one", ["A_1.png", "A_2.png"]), "--label-pattern", "^(?P<label>A)")
    assert result.exit_code == 1 and "got one class, A; composites need patches of two classes" in result.stderr
    Path("set.yaml").write_text("mine")
    result = synthpipe("init", "set")
    assert (
        result.exit_code == 1 and "set.yaml: exists, and is not overwritten; name another file with -o" in result.stderr
    )
    assert Path("set.yaml").read_text() == "mine"
    result = synthpipe("init", "set", "--layout", "csv", "--label-pattern", "(?P<label>a)", "-o", "x.yaml")
    assert result.exit_code == 1 and "layout csv uses no label pattern" in result.stderr


def test_index_finds_the_layout_too(place: Path) -> None:
    names = [f"{label}_{number}.png" for label in ("ADI", "adi+LYM", "LYM") for number in range(2)]
    draw(place / "set", names)
    Path("set.txt").touch()
    assert "is a file, expected the folder of the patches, or a table" in synthpipe("index", "set.txt").stderr
    for options in ((), ("--label-pattern", "^(?P<label>[A-Za-z+]+)_")):
        result = synthpipe("index", "set", *options)
        assert result.exit_code == 0 and "2 ADI+LYM\n" in result.stdout, result.output
        assert f"\n  in {place / 'set'}, layout pattern\n" in result.stdout
    assert "empty or repeated name" in synthpipe("index", "set", "--classes", "ADI,adi").stderr
