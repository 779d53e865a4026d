"""Damage of every kind in finished runs: `verify` finds it, and `--repair` restores the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image as PillowImage

from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.core.errors import StoreError
from synthpipe.core.records import PatchRef
from synthpipe.core.threads import available_cores
from synthpipe.curated import open_run
from synthpipe.patches.catalog import Catalog
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.checksums import write_checksums
from synthpipe.storage.run import RunDirectory
from synthpipe.verification import VerifyReport, repair, verify
from synthpipe.verification.rendering import check_patch_files
from tests.conftest import DEMO, SMALL, Watched, pipeline

COUNTS = pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.faults)])
"""Number of random faults."""
UNREPEATABLE = ("build.json", "mosaic.json", "bezier.json", "SHA256SUMS")  # hold seconds, or digests of such files


@pytest.fixture(scope="module")
def patches(phantom: Path) -> Path:
    return phantom


@pytest.fixture(scope="module")
def finished(small_run: Path) -> Path:
    return small_run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run for the test to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def check(path: Path, samples: int = 0) -> VerifyReport:
    return verify(path, samples, LogReporter())


def repaired(path: Path, samples: int = 0) -> VerifyReport:
    return repair(path, samples, 0, LogReporter())


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in (".lock", "report.html"))


def contents(path: Path) -> dict[str, str]:
    """Return the digest of every file of a run that another build writes with the same bytes."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files(path)
        if file.name not in UNREPEATABLE
    }


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    position, bit = rng.integers(len(data)), rng.integers(8)
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def append(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 100)))


def delete(data: bytes, rng: np.random.Generator) -> None:
    return None


Damage = Callable[[bytes, np.random.Generator], bytes | None]
DAMAGES: tuple[Damage, ...] = (truncate, flip, append, delete)


@dataclass(frozen=True)
class Hit:
    """A file of a run, and the damaged bytes that replace its content."""

    name: str
    damage: Damage
    data: bytes | None


def hits(path: Path, count: int, seed: int) -> Iterator[Hit]:
    """Draw faults: equally many in shards and in other files, with all kinds of damage in turn."""
    rng = np.random.default_rng(seed)
    names = [file.relative_to(path).as_posix() for file in files(path)]
    shards = [name for name in names if "/c." in name]
    others = [name for name in names if "/c." not in name]
    for number in range(count):
        damage = DAMAGES[number % len(DAMAGES)]
        name = str(rng.choice(shards if rng.random() < 0.5 else others))
        yield Hit(name, damage, damage((path / name).read_bytes(), rng))


def strike(path: Path, hit: Hit) -> None:
    if hit.data is None:
        (path / hit.name).unlink()
    else:
        (path / hit.name).write_bytes(hit.data)


@contextmanager
def struck(path: Path, hit: Hit) -> Iterator[None]:
    whole = (path / hit.name).read_bytes()
    strike(path, hit)
    try:
        yield
    finally:
        (path / hit.name).write_bytes(whole)


def test_a_sound_run_has_no_faults_and_nothing_is_written(finished: Path) -> None:
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files(finished)}
    found = check(finished, samples=30)
    assert not found.faults and not found.notes and found.finished
    assert found.rendered == 2 * (30 + 24)  # of 40 filter composites in five shards, and of all 24 candidates in three
    assert found.objects >= len(before) and found.size >= sum(len(data) for _, data in before.values())
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files(finished)} == before


@COUNTS
def test_every_random_fault_is_found_and_nothing_else_is_named(run: Path, count: int) -> None:
    wrong = []
    for hit in hits(run, count, seed=5):
        with struck(run, hit):
            found = check(run)
        if [fault.path for fault in found.faults] != [run / hit.name]:
            wrong.append((hit.name, hit.damage.__name__, found.faults))
    assert not wrong
    assert not check(run).faults


@COUNTS
def test_random_faults_are_mended_to_the_same_bytes(run: Path, count: int) -> None:
    before = contents(run)
    permanent = run / "run.json"
    chosen = {hit.name: hit for hit in hits(run, count, seed=5) if hit.name != permanent.name}
    trained = [name for name in chosen if name.startswith("filter/mosaic.") or name.startswith("filter/bezier.")]
    rounds = max(1, count // 25)
    groups = [[name for name in chosen if name not in trained][start::rounds] for start in range(rounds)]
    groups[0] += trained  # a filter is trained again in one of the rounds: that takes long
    for names in groups:
        for name in names:
            strike(run, chosen[name])
        found = check(run)
        assert found.faults
        assert not repaired(run).faults
        assert contents(run) == before
        journal = json.loads((run / "build.json").read_text())
        assert journal["finished"] and journal["strategies"]["mosaic"]["verdicts"]["kept"] == 12


def test_a_permanent_fault_is_named_and_nothing_is_changed(run: Path) -> None:
    data = json.loads((run / "run.json").read_text())
    data["pipeline"]["seed"] += 1
    (run / "run.json").write_text(json.dumps(data, indent=1) + "\n")
    shard = run / "candidates.zarr" / "mosaic" / "image" / "c.1.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    before = {file: file.read_bytes() for file in files(run)}
    found = repaired(run)
    assert [fault.path for fault in found.faults if fault.permanent] == [run / "run.json"]
    assert "restore it from a copy" in found.faults[0].cure
    assert {file: file.read_bytes() for file in files(run)} == before


def test_missing_metadata_is_written_again_and_the_chunks_stay(run: Path) -> None:
    before = contents(run)
    for name in ("candidates.zarr/mosaic/image", "candidates.zarr/bezier", "curated.zarr", "filter/training.zarr"):
        (run / name / "zarr.json").unlink()
    chunks = {file: file.stat().st_mtime_ns for file in files(run / "candidates.zarr")}
    assert {fault.kind for fault in check(run).faults} == {"metadata"}
    assert not repaired(run).faults
    assert contents(run) == before
    kept = {file: time for file, time in chunks.items() if file.name != "zarr.json"}
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_sound_bytes_in_the_wrong_place_are_found(run: Path) -> None:
    before = contents(run)
    mosaic = run / "candidates.zarr" / "mosaic"
    shutil.copy(
        mosaic / "image" / "c.0.0.0.0", mosaic / "image" / "c.1.0.0.0"
    )  # only re-rendering its recipes finds this
    shutil.copy(mosaic / "mask" / "c.0.0.0", mosaic / "mask" / "c.2.0.0")
    shutil.copy(mosaic / "verdict" / "c.0", mosaic / "verdict" / "c.1")
    shutil.copy(run / "curated.zarr" / "labels" / "c.0.0", run / "curated.zarr" / "labels" / "c.1.0")
    found = check(run, samples=24)
    kinds = {str(fault.path).removeprefix(f"{run}/"): fault.kind for fault in found.faults}
    assert kinds["candidates.zarr/mosaic/image/c.1.0.0.0"] == "contradiction"
    assert kinds["candidates.zarr/mosaic/class_pixels/c.2.0"] == "contradiction"
    assert kinds["candidates.zarr/mosaic/mask/c.2.0.0"] == "contradiction"
    assert found.notes == (f"{run / 'curated.zarr'}: not compared with its candidates, which have faults",)
    assert not repaired(run, samples=24).faults
    assert contents(run) == before


def test_missing_and_changed_patches_are_named(patches: Path, tmp_path: Path) -> None:
    root, path = Path(shutil.copytree(patches, tmp_path / "patches")), tmp_path / "run"
    settings = pipeline(*SMALL, f"patches.root={root}", "filter.enabled=false", "curation.wanted=24")
    build(settings, path, ClusterSettings(Local(0)), LogReporter())
    gone, altered = sorted((root / "1.training").glob("*0, 1, 0]*"))[:2]
    gone.unlink()
    PillowImage.new("RGB", (48, 48)).save(altered)
    found = check(path, samples=24)
    assert {(fault.kind, fault.path) for fault in found.faults} == {("patch", gone), ("patch", altered)}
    assert found.rendered == 48
    before = {file: file.read_bytes() for file in files(path)}
    next((path / "candidates.zarr" / "mosaic" / "image").glob("c.0*")).unlink()
    del before[path / "candidates.zarr" / "mosaic" / "image" / "c.0.0.0.0"]
    assert {fault.kind for fault in repaired(path).faults} == {"patch", "missing"}
    assert {file: file.read_bytes() for file in files(path)} == before
    assert not [fault for fault in check(path).faults if fault.kind == "patch"]  # without samples they are not read


def test_few_patches_are_read_at_a_time(tmp_path: Path) -> None:
    gone = [PatchRef(f"{n:04}", str(tmp_path / "gone.png"), "0" * 64, (0,), 8, 8, "slide") for n in range(2000)]
    patches, done = Watched(gone), 0

    def advance(steps: int) -> None:
        nonlocal done
        assert (
            patches.taken - 2 * done <= 3 * available_cores() + 1
        )  # each patch is taken twice: to be read, and to be named
        done += steps

    assert check_patch_files(Catalog(patches), advance).keys() == {patch.id for patch in gone}
    assert done == 2000


def test_an_unfinished_run_has_no_faults_for_missing_parts(run: Path) -> None:
    lacking = ("build.json", "SHA256SUMS", "filter/split.json", "filter/bezier.json")
    for name in (*lacking, "candidates.zarr/mosaic/image/c.2.0.0.0"):
        (run / name).unlink()
    shutil.rmtree(run / "curated.zarr")
    shutil.rmtree(run / "candidates.zarr" / "bezier")
    found = check(run, samples=5)
    assert not found.faults and not found.finished
    assert found.notes[0] == "the run is not finished"
    notes = {note.removeprefix(f"{run}/") for note in found.notes}
    assert "candidates.zarr/mosaic: 1 of 3 shards are not complete yet" in notes
    assert {f"{name}: not built yet" for name in ("candidates.zarr/bezier", "curated.zarr")} <= notes
    assert "filter/bezier.json: the filter is not trained yet" in notes
    victim = run / "candidates.zarr" / "mosaic" / "mask" / "c.0.0.0"
    victim.write_bytes(b"")
    assert [fault.path for fault in check(run).faults] == [victim]


def test_a_stopped_repair_resumes(run: Path) -> None:
    """A stopped --repair leaves an unfinished run without faults."""
    before = contents(run)
    RunDirectory(run).reopen()
    (run / "candidates.zarr" / "mosaic" / "mask" / "c.0.0.0").unlink()
    assert not check(run).faults
    found = repaired(run)
    assert not found.faults and found.finished and contents(run) == before


def test_unreadable_objects_are_named_and_made_again(run: Path) -> None:
    """A folder has the name of a shard."""
    before = contents(run)
    folder = run / "candidates.zarr" / "mosaic" / "image" / "c.0.0.0.0"
    folder.unlink()
    folder.mkdir()
    assert {(fault.kind, fault.path) for fault in check(run).faults} == {("damaged", folder)}
    assert not repaired(run).faults and contents(run) == before


def test_objects_of_the_user_are_named_and_left_alone(run: Path) -> None:
    own = run / "curated.zarr" / "is_train"
    zarr.create_array(own, shape=(24,), dtype=bool)[:] = True
    (run / "candidates.zarr" / "notes.txt").write_text("mine")
    (run / "candidates.zarr" / "mosaic" / "image" / "thumbnail.png").write_bytes(b"")
    before = {file: file.read_bytes() for file in files(run)}
    found = check(run)
    assert not found.faults
    assert set(found.notes) == {
        f"{run / folder}: not checked: the pipeline did not make {name}"
        for folder, name in (
            *(("curated.zarr", "is_train"), ("candidates.zarr", "notes.txt")),
            ("candidates.zarr/mosaic/image", "thumbnail.png"),
        )
    }
    assert len(open_run(run).curated.labels) == 24
    assert not repaired(run).faults and {file: file.read_bytes() for file in files(run)} == before
    output = CliRunner().invoke(main, ["inspect", str(run)]).output
    assert "not of synthpipe: is_train\n" in output and "not of synthpipe: notes.txt\n" in output


def test_objects_outside_their_array_are_faults_and_are_removed(run: Path, tmp_path: Path) -> None:
    before, mosaic = contents(run), run / "candidates.zarr" / "mosaic"
    shutil.copy(mosaic / "mask" / "c.0.0.0", mosaic / "mask" / "c.9.0.0")
    (mosaic / "donors" / "c.1").write_bytes(b"")
    (run / "curated.zarr" / "labels" / "c.00.0").mkdir()
    extra = {str(fault.path).removeprefix(f"{run}/"): fault.kind for fault in check(run).faults}
    stores = ("candidates.zarr/mosaic/mask/c.9.0.0", "candidates.zarr/mosaic/donors/c.1", "curated.zarr/labels/c.00.0")
    assert extra == dict.fromkeys(stores, "extra")
    assert not repaired(run).faults and contents(run) == before


def test_checksums_name_only_files_of_the_run(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("mine")
    lines = f"{'0' * 64}  ../other.json\n"
    end = f"# sha256 of the lines above: {hashlib.sha256(lines.encode()).hexdigest()}\n"
    (run / "SHA256SUMS").write_text(lines + end)
    (fault,) = check(run).faults
    assert fault.path == run / "SHA256SUMS" and fault.remove == (run / "SHA256SUMS",)
    assert "../other.json' does not name a small file of a run" in fault.found


def test_swapped_scores_are_made_again(run: Path) -> None:
    """Each shard is intact; the verdicts contradict the scores, and either of them may be wrong."""
    before = contents(run)
    first, second = (run / "candidates.zarr" / "mosaic" / "p_real" / f"c.{shard}" for shard in (0, 1))
    swapped = first.read_bytes(), second.read_bytes()
    assert swapped[0] != swapped[1]
    first.write_bytes(swapped[1])
    second.write_bytes(swapped[0])
    assert {fault.kind for fault in check(run).faults} == {"contradiction"}
    assert not repaired(run).faults and contents(run) == before


def test_messages_about_damage_name_the_repair(run: Path) -> None:
    before = contents(run)
    shards = [run / "candidates.zarr" / "mosaic" / name for name in ("image/c.0.0.0.0", "mask/c.1.0.0")]
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:-1])
    for index in (0, 8):
        with pytest.raises(StoreError, match=r"if the run is finished, repair it with `synthpipe verify RUN --repair`"):
            open_run(run).candidate("mosaic", index)
    shards[1].unlink()
    assert not repaired(run).faults and contents(run) == before
    (run / "filter" / "mosaic.json").write_text("{")
    output = CliRunner().invoke(main, ["inspect", str(run)]).output
    assert (
        "filter/mosaic.json: is damaged, or is not the report of a filter: " in output
        and "`synthpipe verify RUN` shows how" in output
    )
    faults = {str(fault) for fault in check(run).faults}
    assert any("give --repair to train the filter again" in fault for fault in faults)
    assert not any("build again" in fault or "verify" in fault for fault in faults)


def test_a_curated_set_with_another_length_is_repaired(run: Path) -> None:
    before = contents(run)
    for metadata in (run / "curated.zarr").glob("*/zarr.json"):
        metadata.write_text(metadata.read_text().replace("    24", "    23", 1))
    faults = check(run).faults
    assert {fault.path for fault in faults} == set((run / "curated.zarr").glob("*/zarr.json"))
    assert {(fault.kind, fault.found, fault.expected) for fault in faults} == {("metadata", "shape[0] is 23", "24")}
    assert not repaired(run).faults
    assert contents(run) == before


def test_scores_of_a_disabled_filter_may_be_incomplete(patches: Path, run: Path) -> None:
    for name in ("SHA256SUMS", "build.json", "candidates.zarr/bezier/p_real/c.2"):
        (run / name).unlink()
    shutil.rmtree(run / "curated.zarr")
    settings = pipeline(*SMALL, f"patches.root={patches}", "filter.enabled=false", "curation.rule=threshold")
    build(settings, run, ClusterSettings(Local(0)), LogReporter())
    assert check(run, samples=5).faults == ()
    victim = run / "candidates.zarr" / "bezier" / "p_real" / "c.1"
    victim.write_bytes(victim.read_bytes()[::-1])
    assert [fault.path for fault in check(run).faults] == [victim]


def test_plans_that_grew_and_limits_of_donor_use_are_judged_again(patches: Path, tmp_path: Path) -> None:
    rules = ("filter.enabled=false", "bezier=null", "curation.wanted=20", "curation.max_donor_uses=3")
    # with four tiles, less than half of the composites show three classes
    grown = ("curation.min_classes=3", "curation.max_candidates=300", "mosaic.grid=1", "mosaic.tile=32")
    path = tmp_path / "run"
    journal = build(
        pipeline(*SMALL, f"patches.root={patches}", *rules, *grown), path, ClusterSettings(Local(0)), LogReporter()
    )
    counts = journal["strategies"]["mosaic"]["verdicts"]
    assert journal["strategies"]["mosaic"]["candidates"] > 20 and counts["donor_overused"] > 0
    assert not check(path, samples=10).faults
    tallied = json.loads((path / "build.json").read_text())
    tallied["strategies"]["mosaic"]["verdicts"]["surplus"] += 1
    (path / "build.json").write_text(json.dumps(tallied, indent=1) + "\n")
    write_checksums(RunDirectory(path), {})  # so that the checksums match the changed file
    (fault,) = check(path).faults
    assert fault.path == path / "build.json" and "'surplus'" in fault.found


@pytest.mark.faults
def test_a_build_killed_at_any_moment_leaves_no_faults(patches: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(path), "--workers", "2"]
    for override in (*SMALL, f"patches.root={patches}", "filter.enabled=false", "curation.wanted=400"):
        command += ["--set", override]
    command += ["--set", "curation.max_candidates=800"]
    moments = (
        *("candidates.zarr/mosaic/zarr.json", "candidates.zarr/mosaic/mask/c.9.0.0"),
        *("candidates.zarr/bezier/recipe/c.20", "curated.zarr/p_real/c.11"),
    )
    for moment in moments:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not (path / moment).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert (path / moment).exists() and process.returncode == -signal.SIGKILL
        found = check(path, samples=5)
        assert not found.faults and not found.finished and len(found.notes) > 1
    subprocess.run(command, capture_output=True, check=True)
    found = check(path, samples=50)
    assert not found.faults and found.finished and found.rendered == 100


def test_the_command_prints_text_and_json(run: Path) -> None:
    result = CliRunner().invoke(main, ["verify", str(run), "--sample", "2"])
    assert result.exit_code == 0 and result.stdout.startswith(f"{run}: sound; ")
    assert "8 composites rendered again" in result.stdout
    victim = run / "candidates.zarr" / "mosaic" / "image" / "c.1.0.0.0"
    victim.write_bytes(victim.read_bytes()[:-1])
    result = CliRunner().invoke(main, ["verify", str(run), "--sample", "0"])
    assert result.exit_code == 1 and f"{victim}\n  damaged: " in result.stdout
    assert f"{run}: 1 fault; " in result.stdout.splitlines()[-1]
    result = CliRunner().invoke(main, ["verify", str(run), "--sample", "0", "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and not found["sound"] and found["finished"]
    assert [(fault["path"], fault["kind"], fault["repairable"]) for fault in found["faults"]] == [
        (str(victim), "damaged", True)
    ]
    command = ["verify", str(run), "--sample", "0", "--repair", "--workers", "1", "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0 and json.loads(result.stdout)["sound"]
    result = CliRunner().invoke(main, ["verify", str(run), "--workers", "1"])
    assert result.exit_code == 2 and "--workers needs --repair" in result.stderr


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert result.exit_code == 1
    expected = f"Error: {tmp_path}: is not a run directory; expected one that `synthpipe build` made\n"
    assert result.stderr == expected
