"""Exports that are interrupted, killed or damaged, or whose output folder is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.core.errors import MissingPackageError, StaleRunError, StoreError
from synthpipe.core.progress import Advance, Silent
from synthpipe.curated import CuratedSet
from synthpipe.export import FORMS, export, form_of
from synthpipe.export.entries import part_of
from synthpipe.export.ledger import digest_of
from synthpipe.export.work import reader_of
from tests.export.conftest import exported, noise
from tests.export.test_forms import Exports, digests

PART = 8
ONE_FORM_OR_ALL = [pytest.param(form, marks=[] if form == "png" else pytest.mark.faults) for form in FORMS]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> CuratedSet:
    """Return a set whose export takes seconds."""
    return noise(tmp_path_factory.mktemp("large") / "set.zarr", count=120, size=(224, 224))


def started(curated: CuratedSet, form: str, folder: Path, part: int = PART) -> subprocess.Popen[str]:
    """Start an export in a process group of its own."""
    command = [sys.executable, "-m", "synthpipe", "export", str(curated.path), "--to", form, "-o", str(folder)]
    return subprocess.Popen(
        [*command, "--part", str(part), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def begun(curated: CuratedSet, form: str, folder: Path) -> subprocess.Popen[str]:
    """Start an export, and wait until some of it is recorded."""
    process = started(curated, form, folder)
    ledger = folder / "export.json"
    while process.poll() is None and not (ledger.exists() and json.loads(ledger.read_text())["parts"]):
        time.sleep(0.01)
    assert process.poll() is None, process.stderr and process.stderr.read()
    return process


def ended(process: subprocess.Popen[str]) -> str:
    _, log = process.communicate(timeout=60)
    return log


def recorded(folder: Path) -> dict[str, object]:
    data = json.loads((folder / "export.json").read_text())
    assert not data["finished"]
    parts: dict[str, object] = data["parts"]
    return parts


@pytest.mark.parametrize("form", ONE_FORM_OR_ALL)
def test_killed_and_given_again_it_ends_with_the_same_bytes(form: str, large: CuratedSet, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = begun(large, form, folder)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    _, left = psutil.wait_procs(workers, timeout=20)
    assert not left, "workers outlive the export"
    before = recorded(folder)
    assert 0 < len(before) < 15
    again = exported(large, form, folder, PART)
    assert again.kept == len(before) and again.composites == 120
    exported(large, form, tmp_path / "whole", PART)
    assert digests(folder) == digests(tmp_path / "whole")


@pytest.mark.faults
def test_killed_before_a_part_is_recorded_it_goes_on_too(large: CuratedSet, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = started(large, "png", folder, part=120)
    while not list(folder.glob("img/*.png")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    assert recorded(folder) == {}
    assert exported(large, "png", folder, 120).composites == 120


def test_interrupted_it_leaves_whole_files_and_says_so(large: CuratedSet, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = begun(large, "png", folder)
    os.killpg(process.pid, signal.SIGINT)
    log = ended(process)
    assert process.returncode == 1 and "finished work is kept" in log and "Traceback" not in log
    assert recorded(folder)
    assert not list(folder.rglob("*.partial"))
    images, masks = ({path.name for path in (folder / name).iterdir()} for name in ("img", "mask"))
    assert images and images <= masks, "an image without its mask"


def test_interrupted_in_this_process_it_resumes_to_the_same_bytes(
    curated: CuratedSet, exports: Exports, tmp_path: Path
) -> None:
    class StopsAfterOnePart(Silent):
        @contextmanager
        def stage(self, title: str, total: int) -> Iterator[Advance]:
            def stop(steps: int, remark: str = "") -> None:
                raise KeyboardInterrupt

            yield stop

    with pytest.raises(KeyboardInterrupt):
        export(curated, "png", tmp_path / "out", StopsAfterOnePart(), 8, 0)
    assert list(recorded(tmp_path / "out")) == ["0"] and not multiprocessing.active_children()
    assert exported(curated, "png", tmp_path / "out").kept == 1
    assert digests(tmp_path / "out") == digests(exports("png"))


def test_a_killed_worker_is_reported(large: CuratedSet, tmp_path: Path) -> None:
    process = begun(large, "coco", tmp_path / "out")
    workers = [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    workers[0].kill()
    log = ended(process)
    assert process.returncode == 1 and "a worker process was killed" in log and "Traceback" not in log
    assert recorded(tmp_path / "out")


@pytest.mark.parametrize("form", ONE_FORM_OR_ALL)
def test_what_was_damaged_is_written_again(form: str, curated: CuratedSet, exports: Exports, tmp_path: Path) -> None:
    folder = shutil.copytree(exports(form), tmp_path / "out")
    before = digests(folder)
    (*_, file) = form_of(form, curated.description).names(part_of(curated, 1, 8))
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert exported(curated, form, folder).kept == 2
    assert digests(folder) == before
    (folder / file).unlink()
    assert exported(curated, form, folder).kept == 2
    assert digests(folder) == before
    assert exported(curated, form, folder).kept == 3


def test_a_folder_of_something_else_is_left_alone(curated: CuratedSet, exports: Exports, tmp_path: Path) -> None:
    folder = shutil.copytree(exports("png"), tmp_path / "out")
    before = digests(folder)
    with pytest.raises(StaleRunError, match=r'another export(.|\n)*form: "png" -> "coco"\n  part: 8 -> 9$'):
        exported(curated, "coco", folder, part=9)
    other = noise(tmp_path / "other.zarr")
    with pytest.raises(StaleRunError, match=r"curated.composites: 22 -> 12\n  curated.digest"):
        exported(other, "png", folder)
    assert digests(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds 'thesis.txt' but no export; choose a new or empty folder"):
        exported(curated, "png", tmp_path / "mine")
    with pytest.raises(StaleRunError, match="is in the Zarr store"):
        exported(curated, "png", curated.path / "png")
    (folder / "export.json").write_text('{"parts": 3}')
    with pytest.raises(StoreError, match=r"export.json: is damaged; remove"):
        exported(curated, "png", folder)


@pytest.mark.parametrize("name", ["images", "annotations/parts", "annotations/instances.json", "README.md"])
def test_links_in_an_export_are_not_followed(curated: CuratedSet, exports: Exports, tmp_path: Path, name: str) -> None:
    folder, home = shutil.copytree(exports("coco"), tmp_path / "out"), tmp_path / "home"
    home.mkdir()
    (home / "thesis").write_text("years of work")
    (home / f".a.{'0' * 32}.partial").touch()
    path = folder / name
    target = home / "thesis" if path.is_file() else home
    path.rename(tmp_path / "away")
    path.symlink_to(target)
    with pytest.raises(StoreError, match=rf"{name}: is a link"):
        exported(curated, "coco", folder)
    assert len(list(home.iterdir())) == 2 and (home / "thesis").read_text() == "years of work"


@pytest.mark.parametrize("form", FORMS)
def test_no_name_of_a_folder_is_a_pattern_or_an_address(
    form: str, curated: CuratedSet, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files beside the folder that its name matches as a pattern are not read."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exports(form), "plain")
    shutil.copytree("plain", "a1b")
    for path in Path("a1b").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    writer, folder = form_of(form, curated.description), Path("plain")
    for name in ("a#b", "a::b", "a?b", "a{1..3}b", "a[1]b", "a*b", "a%20b", "pipe:touch it;", "s3:x", "it's \\n"):
        folder = folder.rename(name)
        read, _ = reader_of(writer, folder)
        assert len([*read(folder, part_of(curated, 0, PART))]) == PART
    assert not list(tmp_path.rglob("it"))


def test_a_run_is_no_export(curated: CuratedSet, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"of": "run"}')
    (tmp_path / "README.md").write_text("of the run")
    with pytest.raises(StoreError, match=r"holds 'README.md' but no export"):
        exported(curated, "png", tmp_path)
    assert (tmp_path / "README.md").read_text() == "of the run"


def test_a_difference_when_reading_back_is_reported(curated: CuratedSet, tmp_path: Path) -> None:
    """The ledger records a part whose files are those of another composite."""
    folder = tmp_path / "out"
    result = CliRunner().invoke(
        main,
        ["export", str(curated.path), "--to", "png", "-o", str(folder), "--part", "22", "--no-check", "--workers", "0"],
    )
    assert result.exit_code == 0 and "not read back" in result.stdout
    form = form_of("png", curated.description)
    names = list(form.names(part_of(curated, 0, 22)))
    first, second = (folder / name for name in (names[1], names[3]))
    first.write_bytes(second.read_bytes())
    ledger = json.loads((folder / "export.json").read_text())
    _, size, digest = digest_of((name, (folder / name).read_bytes()) for name in names)
    ledger["parts"]["0"] |= {"bytes": size, "sha256": digest}
    (folder / "export.json").write_text(json.dumps(ledger))
    with pytest.raises(
        StoreError, match="mosaic0000000: was read back by pillow and differs in image from composite 0"
    ):
        exported(curated, "png", folder, part=22)


def test_the_command_says_what_it_did(curated: CuratedSet, tmp_path: Path) -> None:
    arguments = [
        "export",
        str(curated.path),
        "--to",
        "hf",
        "-o",
        str(tmp_path / "out"),
        "--part",
        "10",
        "--workers",
        "0",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"22 composites as hf\n  3 files, .* KiB, in 3 parts\n  read back and compared, every", result.stdout
    )
    again = CliRunner().invoke(main, arguments)
    assert "in 3 parts (3 existed already)" in again.stdout


def test_a_missing_package_is_named(curated: CuratedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"form hf needs pyarrow, .*: pip install pyarrow"):
        exported(curated, "hf", tmp_path / "out")
