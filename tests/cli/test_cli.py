"""The commands as a user gives them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from synthpipe.cli import main
from synthpipe.config.pipeline import json_schema
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from tests.conftest import DEMO, ROOT, SMALL


def synthpipe(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def options(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(directory, PhantomSpec(slides=4, patches=60, size=48, images=1))
    return directory


@pytest.fixture(scope="module")
def run(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    changes = options(*SMALL, "filter.enabled=false", f"patches.root={patches}")
    result = synthpipe("build", DEMO, "-o", path, "--workers", 0, *changes)
    assert result.exit_code == 0, result.output
    assert "a curated set of 24 composites" in result.stdout and "kept 12 of 12 candidates" in result.stdout
    assert re.search(r"\d\d:\d\d:\d\d mosaic candidate composites: 12 in", result.stderr)
    return path


def test_help_is_quick_because_little_is_loaded() -> None:
    code = (
        "import sys; from synthpipe.cli import main; main(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'distributed', 'numba', 'jinja2'} & {*sys.modules}, 'loaded for a help text'"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0 and "build" in found.stdout, found.stderr


def test_validate(tmp_path: Path) -> None:
    assert "valid; fingerprint" in synthpipe("validate", DEMO).stdout
    result = synthpipe("validate", DEMO, "--set", "canvas=big", "--set", "seed=-1")
    assert result.exit_code == 1 and "2 mistakes" in result.stderr
    assert "canvas: got 'big'" in result.stderr and "seed: got -1" in result.stderr
    assert "cannot be read" in synthpipe("validate", tmp_path / "none.yaml").stderr


def test_schema() -> None:
    assert json.loads(synthpipe("schema").stdout) == json_schema()


def test_index_says_what_is_there(patches: Path) -> None:
    result = synthpipe("index", patches, "--layout", "wsss4luad")
    assert result.exit_code == 0 and "60 patches of 4 slides or patients" in result.stdout
    assert re.search(r"\d+ tumour\+stroma\n", result.stdout) and "problems: none" in result.stdout
    found = json.loads(synthpipe("index", patches, "--layout", "wsss4luad", "--json").stdout)
    assert found["patches"] == sum(found["label_sets"].values()) == sum(found["sizes"].values()) == 60
    assert found["donors"] + found["mixed"] == 60 and found["groups"] == 4


def test_index_tells_of_dark_patches(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 8), np.uint16)
    PillowImage.fromarray(values).save(tmp_path / "a-1-[1, 0, 0].png")
    result = synthpipe("index", tmp_path, "--layout", "wsss4luad")
    assert "\nnote: a-1-[1, 0, 0].png: 16-bit values below a tenth of the range" in result.stdout
    found = json.loads(synthpipe("index", tmp_path, "--layout", "wsss4luad", "--json").stdout)["remarks"]
    assert sum("16-bit values" in remark for remark in found) == 1


def test_index_lists_problems_by_file_and_fault(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a-1-[1 0 0 1].png", "a-2-[1 0 2 1].png", "a-3-[1 0 0].png"):
        PillowImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name)
    os.mkfifo(folder / "a-4-[1 0 0 1].png")
    result = synthpipe("index", tmp_path / "set", "--layout", "luad-histoseg")
    assert result.exit_code == 0 and "1 patches" in result.stdout and "problems: 3" in result.stdout
    assert "unreadable: patch 'a-4-[1 0 0 1].png': cannot be read: is a named pipe, expected a file" in result.stdout
    assert "'a-2-[1 0 2 1].png'" in result.stdout and "neither 0 nor 1" in result.stdout
    assert "'a-3-[1 0 0].png'" in result.stdout


def test_index_and_dry_run_say_what_may_surprise(tmp_path: Path) -> None:
    """Both look at pixels, and neither reads a problem a hundred times."""
    rng = np.random.default_rng(0)
    for name in ("tumour/a", "tumour/b", "tumour/c", "stroma/d", "normal/e", "normal/f"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "set" / f"{name}.png")
    for number in range(1, 41):
        PillowImage.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "set/stroma" / f"{number:02}.png")
    changes = options(
        *(f"patches.root={tmp_path / 'set'}", "patches.layout=folders", "patches.on_error=skip"),
        *("filter.enabled=false", "canvas=32", "mosaic.tile=16", "curation.wanted=100"),
    )
    index = synthpipe("index", tmp_path / "set", "--layout", "folders")
    dry = synthpipe("build", DEMO, "-o", tmp_path / "run", "--dry-run", *changes)
    problem = "40 x blank: patch 'stroma/01.png': has one colour, RGB (1, 0, 0), in all its pixels; replace it or "
    for result in (index, dry):
        assert result.exit_code == 0, result.output
        assert problem in result.stdout and result.stdout.count("has one colour") == 1
        assert "the same holds for 'stroma/02.png', 'stroma/03.png' and 37 more\n" in result.stdout
        assert "note: stroma has a single donor, 'stroma/d.png'" in result.stdout
    assert "counts as a slide of its own" not in dry.stdout, "slides do not matter without a filter"


def test_index_takes_class_names_from_folders_and_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["path,labels"]
    for number, label in enumerate(("fat", "gland", "fat+gland")):
        (tmp_path / "set" / label).mkdir(parents=True)
        file = tmp_path / "set" / label / f"{number}.png"
        PillowImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
        rows.append(f"set/{label}/{number}.png,{label}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    for path, layout in ((tmp_path / "set", "folders"), (tmp_path / "set.csv", "csv")):
        found = json.loads(synthpipe("index", path, "--layout", layout, "--json").stdout)
        assert found["label_sets"] == {"fat": 1, "gland": 1, "fat+gland": 1}


def test_dry_run_says_what_would_be_made_and_writes_nothing(patches: Path, tmp_path: Path) -> None:
    changes = options(*SMALL, f"patches.root={patches}")
    result = synthpipe("build", DEMO, "-o", tmp_path / "run", "--dry-run", *changes)
    assert result.exit_code == 0, result.output
    for part in (
        "seed: 2024",
        "patches: 60 (",
        "tumour: in ",
        "mosaic: 20 candidates, to keep 12; 3 shards of 8, 96.0 KiB before compression",
        "mosaic: 40 composites that train the filter; 5 shards of 8",
        "bezier: at most 80 candidates",
        "bezier: 12 in the curated set, 48.0 KiB",
        "fingerprint: ",
        "versions: python 3",
    ):
        assert part in result.stdout
    virtual = synthpipe("build", DEMO, "-o", tmp_path / "run", "--dry-run", *changes, "--set", "store.pixels=virtual")
    for part in (
        "mosaic: 20 candidates, to keep 12; 3 shards of 8, without pixels (store.pixels: virtual)",
        "mosaic: 40 composites that train the filter; 5 shards of 8, 160.0 KiB before compression",
        "mosaic: 12 in the curated set, without pixels (store.pixels: virtual)",
    ):
        assert part in virtual.stdout
    assert not list(tmp_path.iterdir())


def test_inspect_for_people_and_machines(run: Path) -> None:
    text = synthpipe("inspect", run).stdout
    assert "run of demo, finished" in text and "verdicts: 12 kept" in text and "kept pixels: tumour" in text
    assert re.search(r"image +uint8 +24 x 32 x 32 x 3 +3 of 3 shards", text)
    data = json.loads(synthpipe("inspect", run, "--json").stdout)
    assert data["finished"] and data["stores"]["curated.zarr"]["arrays"]["image"]["shape"] == [24, 32, 32, 3]
    store = json.loads(synthpipe("inspect", run / "candidates.zarr", "--json").stdout)
    assert set(store["groups"]) == {"mosaic", "bezier"}
    group = json.loads(synthpipe("inspect", run / "candidates.zarr" / "mosaic", "--json").stdout)
    assert group["attributes"]["strategy"] == "mosaic"


def test_inspect_shows_a_shard_that_is_missing(run: Path) -> None:
    shard = run / "candidates.zarr" / "bezier" / "image" / "c.1.0.0.0"
    content = shard.read_bytes()
    shard.unlink()
    try:
        assert re.search(r"image +uint8 +12 x 32 x 32 x 3 +1 of 2 shards", synthpipe("inspect", run).stdout)
    finally:
        shard.write_bytes(content)


def test_inspect_of_something_else(tmp_path: Path) -> None:
    result = synthpipe("inspect", tmp_path)
    assert result.exit_code == 1 and "the folder has no run.json and no zarr.json" in result.stderr


@pytest.mark.parametrize("strategy", ["mosaic", "bezier"])
def test_replay_renders_the_stored_composite(run: Path, tmp_path: Path, strategy: str) -> None:
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    result = synthpipe("replay", run, strategy, 5, "-o", image, "--mask-output", mask)
    assert result.exit_code == 0, result.output
    assert "equal to the stored pixels" in result.stdout and "1.training" in result.stdout
    from synthpipe.storage.schema import array, open_group

    group = open_group(run / "candidates.zarr", strategy)
    assert np.array_equal(np.asarray(PillowImage.open(image)), np.asarray(array(group, "image")[5]))
    picture = PillowImage.open(mask)
    assert picture.mode == "P" and np.array_equal(np.asarray(picture), np.asarray(array(group, "mask")[5]))
    assert picture.getpalette()[:3] == [0, 64, 128]  # type: ignore[index]


def test_replay_beyond_the_end(run: Path, tmp_path: Path) -> None:
    result = synthpipe("replay", run, "mosaic", 12, "-o", tmp_path / "x.png")
    assert result.exit_code == 1 and "no mosaic composite 12; there are 12, counted from 0" in result.stderr


def test_replay_notices_other_pixels(run: Path, tmp_path: Path) -> None:
    from synthpipe.storage.schema import array, open_group
    from synthpipe.storage.shard_writing import write_shard

    shard = run / "candidates.zarr" / "mosaic" / "image" / "c.0.0.0.0"
    content = shard.read_bytes()
    group = open_group(run / "candidates.zarr", "mosaic", writable=True)
    write_shard(array(group, "image"), 0, np.asarray(array(group, "image")[:8]) ^ 1)
    try:
        result = synthpipe("replay", run, "mosaic", 3, "-o", tmp_path / "x.png")
        assert result.exit_code == 1 and "differ from the rendered pixels; the store is damaged" in result.stderr
    finally:
        shard.write_bytes(content)


def test_a_second_build_does_nothing_and_says_so(run: Path, patches: Path) -> None:
    changes = options(*SMALL, "filter.enabled=false", f"patches.root={patches}")
    result = synthpipe("build", DEMO, "-o", run, *changes)
    assert result.exit_code == 0 and "is finished: nothing to do" in result.stderr
    refused = synthpipe("build", DEMO, "-o", run, *changes, "--set", "mosaic.scale=0.1")
    assert refused.exit_code == 1 and "mosaic.scale: 0.2 -> 0.1" in refused.stderr
    dry = synthpipe("build", DEMO, "-o", run, *changes, "--set", "mosaic.scale=0.1", "--dry-run")
    assert dry.exit_code == 1 and "mosaic.scale: 0.2 -> 0.1" in dry.stderr


def test_phantom(tmp_path: Path) -> None:
    arguments = ("phantom", tmp_path / "p", "--patch-count", 12, "--slide-count", 2, "--size", 48, "--image-count", 1)
    assert "training patches of" in synthpipe(*arguments).stdout
    assert "existed already" in synthpipe(*arguments).stdout
    result = synthpipe("phantom", tmp_path / "p", "--patch-count", 13, "--slide-count", 2, "--size", 48)
    assert result.exit_code == 1 and "Error: " in result.stderr


def test_no_traceback_reaches_the_user(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "--set", f"patches.root={tmp_path / 'none'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "none" in result.stderr and "set patches.root" in result.stderr


def test_no_traceback_of_a_worker_reaches_the_user(patches: Path, tmp_path: Path) -> None:
    changes = options(*SMALL, f"patches.root={patches}", "filter.network=resnet81")
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(tmp_path / "run"), *changes]
    result = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "has no network 'resnet81'; did you mean resnet" in result.stderr
    assert not list((tmp_path / "run").rglob("c.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--group-pattern", "("), "--group-pattern '(': is not a regular expression"),
        (("--group-pattern", "^a"), "--group-pattern '^a': put ( ) around"),
        (("--classes", "a,a,b"), "got an empty or repeated name"),
        (("--classes", "a,,b"), "got an empty or repeated name"),
    ],
)
def test_index_refuses_options_that_make_no_sense(patches: Path, arguments: tuple[str, ...], message: str) -> None:
    result = synthpipe("index", patches, "--layout", "wsss4luad", *arguments)
    assert result.exit_code == 1 and message in result.stderr


def test_files_that_cannot_be_written_are_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = synthpipe("replay", run, "mosaic", 0, "-o", tmp_path / "file" / "x.png")
    assert result.exit_code == 1
    assert f"Error: {tmp_path / 'file' / 'x.png'}: cannot be written: " in result.stderr


def test_the_readme_shows_commands_that_exist_and_code_that_runs(run: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    for command in re.findall(r"^synthpipe ([\w-]+)", readme, re.MULTILINE):
        assert main.get_command(click.Context(main), command)
    code = "".join(f"exec({each!r}, {{}})\n" for each in re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    code = code.replace("runs/demo", str(run)).replace(", float(kept.p_real.mean())", "")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "3 ['tumour', 'stroma', 'normal']" in result.stdout and "'sample': 12" in result.stdout
    assert "torch.Size([16, 3, 32, 32]) torch.Size([16, 32, 32]) torch.Size([16, 3])" in result.stdout
