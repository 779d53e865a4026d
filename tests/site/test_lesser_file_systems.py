"""Real commands on file systems that do less: of a preloaded library, and of FUSE."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from synthpipe.curated import CuratedSet
from synthpipe.files.writing import write_atomically
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from tests.conftest import DEMO

HERE = Path(__file__).parent
FAULTS = "flock does nothing, no rename of folders, no rename of open files"
FOUND = {
    "flock gives one lock to several processes": "renews its file .lock every 10 s",
    "a folder cannot be renamed: Operation not permitted": "copies the former curated set",
    "an open file cannot be renamed: Device or resource busy": "builds close files first",
}
"""What `doctor` finds then, and what it says of it."""


def compiled(source: str, target: Path, *options: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: cc is not installed")
    subprocess.run([compiler, "-o", str(target), str(HERE / source), *options], check=True)
    return target


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("shim.c", tmp_path_factory.mktemp("shim") / "shim.so", "-shared", "-fPIC", "-ldl")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Path]:
    """A folder in a file system of FUSE that renames no folders, and has no hard links and no modes."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no FUSE: there is no /dev/fuse")
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("no FUSE: the headers of libfuse3 are not installed")
    program = compiled("gateway.c", tmp_path / "gateway", *found.stdout.split())
    backing, folder = tmp_path / "backing", tmp_path / "gateway-folder"
    backing.mkdir()
    folder.mkdir()
    mounted = subprocess.run([program, folder], env=os.environ | {"BACKING": str(backing)}, check=False)
    if mounted.returncode:
        pytest.skip("no FUSE: this user may not mount")
    yield folder
    subprocess.run(["fusermount3", "-u", str(folder)], check=True)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(directory, PhantomSpec(slides=4, patches=24, size=48, images=0))
    return directory


class Site:
    """Commands on one odd file system."""

    def __init__(self, folder: Path, patches: Path, environment: Mapping[str, str]) -> None:
        self.folder, self._patches, self.environment = folder, patches, {**os.environ, **environment}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "synthpipe", *arguments]
        env = self.environment | environment
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def given(self, *arguments: str, fails: bool = False, **environment: str) -> str:
        """Give a command, and return what it prints."""
        process = self.start(*arguments, **environment)
        out, log = process.communicate(timeout=300)
        assert process.returncode == (1 if fails else 0) and "Traceback" not in log, log
        return out + log

    def of_build(self, wanted: int, *options: str) -> list[str]:
        settings = (
            *("filter.enabled=false", "mosaic=null", "curation.rule=threshold", f"curation.wanted={wanted}"),
            *("canvas=32", "curation.candidates=16", "curation.max_candidates=16", "store.shard=8"),
            f"patches.root={self._patches}",
        )
        sets = [part for each in settings for part in ("--set", each)]
        return ["build", str(DEMO), "-o", str(self.folder / "run"), "--workers", "1", *sets, *options]


@pytest.fixture
def site(library: Path, patches: Path, tmp_path: Path) -> Site:
    return Site(tmp_path, patches, {"LD_PRELOAD": str(library), "SHIM": FAULTS, "SHIM_FOLDER": str(tmp_path)})


def make_everything(site: Site) -> None:
    """Build, extend, export and look at a run, and expect that nothing is lost or left behind."""
    run = site.folder / "run"
    site.given(*site.of_build(4))
    former = CuratedSet(run / "curated.zarr").digest
    site.given(*site.of_build(6, "--extend"))
    (aside,) = run.glob("curated-*.zarr")
    assert CuratedSet(aside).digest == former and len(CuratedSet(run / "curated.zarr")) == 6
    site.given("export", str(run / "curated.zarr"), "--to", "png", "-o", str(site.folder / "export"))
    assert json.loads(site.given("status", str(run), "--json"))["finished"]
    assert not [*site.folder.rglob("*.partial"), *site.folder.rglob(".lock"), *site.folder.rglob(".driver")]


@pytest.mark.slow
def test_a_run_is_made_where_locks_and_renames_do_not_work(site: Site) -> None:
    make_everything(site)
    findings = json.loads(site.given("doctor", str(site.folder), "--json"))
    for found, cure in FOUND.items():
        (named,) = [each for each in findings if found in each["found"]]
        assert named["state"] == "note" and cure in named["cure"]


@pytest.mark.slow
def test_a_run_is_made_on_a_gateway(gateway: Path, patches: Path) -> None:
    site = Site(gateway, patches, {})
    make_everything(site)
    findings = json.loads(site.given("doctor", str(gateway), "--json"))
    (named,) = [each for each in findings if each["what"] == "renames"]
    assert named["found"] == "a folder cannot be renamed: Operation not supported"


def test_where_locks_do_nothing_the_other_build_is_named(site: Site) -> None:
    run = site.folder / "run"
    run.mkdir()
    holder: dict[str, Any] = {"of": "run", "host": os.uname().nodename, "process": os.getpid(), "build": "x"}
    holder["renewed"] = 0
    (run / ".lock").write_text(json.dumps(holder))
    held_by = f"process {os.getpid()} on {os.uname().nodename}"
    assert f"patches are being read by {held_by}, as its lock says" in site.given("status", str(run))
    build = site.start(*site.of_build(4))
    while build.poll() is None:
        holder["renewed"] += 1
        write_atomically(run / ".lock", json.dumps(holder))
        time.sleep(0.05)
    _, log = build.communicate()
    assert build.returncode == 1 and f"{run}: is being written by {held_by}; wait for it" in log


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_share_no_donor_bank_where_locks_do_nothing(site: Site, workers: str) -> None:
    scratch = site.folder / "scratch"
    scratch.mkdir()
    said = site.given(*site.of_build(4), "--workers", workers, TMPDIR=str(scratch))
    assert f"{scratch}: this file system gives one lock to several processes. So each worker builds" in said
    assert len(CuratedSet(site.folder / "run" / "curated.zarr")) == 4 and not list(scratch.glob("synthpipe-*"))
    findings = json.loads(site.given("doctor", str(site.folder), "--json", TMPDIR=str(scratch)))
    (named,) = [each for each in findings if each["what"] == "scratch locks"]
    assert named["state"] == "note" and named["found"].startswith(str(scratch)) and "TMPDIR" in named["cure"]


def test_a_directory_that_is_used_stays_where_locks_do_nothing(site: Site) -> None:
    code = "from synthpipe.files.scratch import *\nwith private_directory() as own:\n  sweep(None)\n  own.rmdir()"
    environment = {**os.environ, **site.environment, "TMPDIR": str(site.folder)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_workers_of_a_cluster_refuse_a_scratch_disk_where_locks_do_nothing(site: Site) -> None:
    code = "from synthpipe.patches.shared_bank import *\nhold_bank(BankLocation('bank'), lambda directory: None)"
    environment = {**os.environ, **site.environment, "TMPDIR": str(site.folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert f"{site.folder}/synthpipe-{os.getuid()}: its file system gives one lock" in done.stderr
