"""Attacks on what lies beside and outside of the folders that synthpipe writes into."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.core.errors import StoreError
from synthpipe.files.folders import Kind, claim, sweep
from synthpipe.files.locations import parse_location
from synthpipe.files.lock import held, holder_of
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.checksums import write_checksums
from synthpipe.storage.run import RunDirectory, read_json, write_json
from tests.conftest import DEMO, pipeline

SMALL = (
    *("canvas=32", "mosaic.tile=16", "filter.enabled=false", "curation.rule=threshold", "curation.wanted=4"),
    *("curation.candidates=8", "curation.max_candidates=40", "store.shard=8"),
)
KIND = Kind("test", ("record",))
HALF = ".run.json.0123456789abcdef0123456789abcdef.partial"


def synthpipe(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def patches(phantom: Path) -> Path:
    return phantom


@pytest.fixture(scope="module")
def finished(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    build(pipeline(*SMALL, f"patches.root={patches}"), path, ClusterSettings(Local(0)), LogReporter())
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of somebody else, with names that a run has too."""
    home = tmp_path / "home"
    (home / "thesis.json").mkdir(parents=True)
    for name in ("README.md", "thesis.safetensors", "thesis.json/chapter", "film.partial", HALF, "zarr.json"):
        (home / name).write_text(f"{name}: years of work")
    return home


def contents(folder: Path) -> dict[str, str | None]:
    """Return the digest of every file below a folder, and the names of folders and of what else there is."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in folder.rglob("*")
    }


def build_again(patches: Path, run: Path, *options: str) -> Result:
    settings = [part for each in (*SMALL, f"patches.root={patches}") for part in ("--set", each)]
    return synthpipe("build", DEMO, *settings, "-o", run, "--workers", 0, *options)


@pytest.mark.parametrize("name", ["{home}/thesis", "../home/thesis", "filter/../../home/thesis.json", "README"])
def test_names_in_sha256sums_lead_nowhere(run: Path, victim: Path, name: str) -> None:
    before = contents(victim)
    sums = run / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.startswith("#")]
    lines.append(f"{'0' * 64}  {name.format(home=victim)}")
    body = "".join(f"{line}\n" for line in lines)
    sums.write_text(f"{body}# sha256 of the lines above: {hashlib.sha256(body.encode()).hexdigest()}\n")
    found = synthpipe("verify", run, "--sample", 0)
    assert found.exit_code == 1 and "does not name a small file of a run" in found.stdout and "1 fault;" in found.stdout
    mended = synthpipe("verify", run, "--sample", 0, "--repair", "--workers", 0)
    assert mended.exit_code == 0, mended.output
    assert contents(victim) == before


def _link(lock: Path, victim: Path) -> None:
    lock.symlink_to(victim / "README.md")


def _link_to_nothing(lock: Path, victim: Path) -> None:
    lock.symlink_to(victim / "new")


def _second_name(lock: Path, victim: Path) -> None:
    os.link(victim / "README.md", lock)


def _copy(lock: Path, victim: Path) -> None:
    lock.write_bytes((victim / "README.md").read_bytes())


def _pipe(lock: Path, _: Path) -> None:
    os.mkfifo(lock)


LOCKS: dict[Callable[[Path, Path], None], str] = {
    _link: "a link",
    _link_to_nothing: "a link",
    _second_name: "is a file with several names (hard links)",
    _copy: "has other content",
    _pipe: "a named pipe",
}


@pytest.mark.parametrize("attack", LOCKS)
def test_a_lock_that_is_none_is_refused_and_keeps_its_bytes(
    patches: Path, run: Path, victim: Path, attack: Callable[[Path, Path], None]
) -> None:
    attack(run / ".lock", victim)
    RunDirectory(run).reopen()
    before = contents(victim), contents(run)
    for result in (build_again(patches, run), synthpipe("verify", run, "--sample", 0, "--repair", "--workers", 0)):
        assert result.exit_code == 1 and LOCKS[attack] in result.output and "fault of synthpipe" not in result.output
        assert f"{run / '.lock'}" in result.output
    assert (contents(victim), contents(run)) == before
    with pytest.raises(StoreError, match=r"\.lock"), held(run, Kind("test", ("run.json",), ())):
        pass
    assert (contents(victim), contents(run)) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_lock_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    os.chown(tmp_path / ".lock", 12345, 12345)
    with pytest.raises(StoreError, match="belongs to another user, expected a lock of synthpipe"), held(tmp_path, KIND):
        pass


@pytest.mark.parametrize("name", ["filter", "candidates.zarr", "curated.zarr/image", "candidates.zarr/mosaic/c.0"])
def test_links_in_a_run_are_not_followed(patches: Path, run: Path, victim: Path, name: str) -> None:
    path = run / name
    if path.exists():
        shutil.rmtree(path)
    path.symlink_to(victim)
    RunDirectory(run).reopen()
    before = contents(victim)
    for result in (build_again(patches, run), synthpipe("verify", run, "--sample", 0, "--repair", "--workers", 0)):
        assert result.exit_code == 1 and f"{path}" in result.output and "a link" in result.output, result.output
        assert "fault of synthpipe" not in result.output
    assert path.is_symlink() and contents(victim) == before


def test_a_run_may_be_reached_through_a_link(patches: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    (run / "candidates.zarr" / "mosaic" / "mask" / "c.0.0.0").unlink()
    mended = synthpipe("verify", tmp_path / "link", "--sample", 0, "--repair", "--workers", 0)
    assert mended.exit_code == 0, mended.output
    assert not (run / ".lock").exists()


def test_what_run_json_says_becomes_no_path(patches: Path, run: Path, victim: Path) -> None:
    said = read_json(run / "run.json")
    write_json(run / "run.json", {**said, "fingerprint": "/../../h"})
    write_checksums(RunDirectory(run), {})
    before = contents(run), contents(victim)
    result = build_again(patches, run, "--extend", "--set", "curation.wanted=5")
    assert result.exit_code == 1 and "run.json: fingerprint is '/../../h', expected 64 hex" in result.stderr
    assert (contents(run), contents(victim)) == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["build", "dry run"])
def test_a_build_into_a_foreign_folder_is_refused_at_once(patches: Path, victim: Path, dry: list[str]) -> None:
    before = contents(victim)
    result = build_again(patches, victim, *dry)
    expected = (
        f"{victim}: holds 'README.md', 'film.partial', 'thesis.json' and 2 more but no run; choose a new or empty"
    )
    assert result.exit_code == 1 and expected in result.stderr
    assert contents(victim) == before


def test_a_refused_build_leaves_nothing(tmp_path: Path) -> None:
    result = build_again(tmp_path / "gone", tmp_path / "runs" / "new")
    assert result.exit_code == 1 and not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    result = build_again(tmp_path / "gone", tmp_path / "empty")
    assert result.exit_code == 1 and not list((tmp_path / "empty").iterdir())


def test_a_phantom_is_not_written_over_others(victim: Path, tmp_path: Path) -> None:
    before = contents(victim)
    result = synthpipe("phantom", victim, "--patch-count", 12)
    assert result.exit_code == 1 and "but no phantom" in result.stderr
    phantom = tmp_path / "phantom"
    phantom.mkdir()
    write_json(phantom / "phantom.unfinished.json", {"format_version": 2, "spec": {}})
    (phantom / "1.training").symlink_to(victim)
    result = synthpipe("phantom", phantom, "--patch-count", 12)
    assert result.exit_code == 1 and "1.training: is a link" in result.stderr
    assert contents(victim) == before


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("command", ["replay", "inspect", "report"])
def test_outputs_that_are_no_files_are_refused(run: Path, victim: Path, command: str, kind: str) -> None:
    target = run.parent / "out.png"
    if kind == "link":
        target.symlink_to(victim / "README.md")
    else:
        os.mkfifo(target)
    before = contents(victim)
    arguments: dict[str, tuple[object, ...]] = {
        "replay": ("replay", run, "mosaic", 0, "-o", target),
        "inspect": ("inspect", run, "--sheet", target),
        "report": ("report", run, "-o", target),
    }
    result = synthpipe(*arguments[command])
    assert result.exit_code != 0 and "out.png" in result.output and "fault of synthpipe" not in result.output
    assert contents(victim) == before and (target.is_symlink(), target.is_fifo()) == (kind == "link", kind == "pipe")


def test_a_report_replaces_reports_alone(run: Path, victim: Path) -> None:
    assert synthpipe("report", run).exit_code == 0
    before = contents(victim)
    for output in ("README.md", "zarr.json"):
        result = synthpipe("report", run, "-o", victim / output)
        assert result.exit_code == 1 and f"{output}: is not a report of synthpipe" in result.stderr
    assert synthpipe("report", victim).exit_code == 1 and contents(victim) == before


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_folder_is_known_by_its_marker_or_by_the_lock_of_a_first_attempt(place: str, tmp_path: Path) -> None:
    folder = parse_location(f"memory://{tmp_path.name}") if place == "memory" else tmp_path / "new"
    with pytest.raises(RuntimeError), held(folder, KIND):
        (folder / "other").write_text("written before its marker")
        raise RuntimeError
    assert (folder / ".lock").read_text() == '{"of": "test"}' and holder_of(folder) is None
    with pytest.raises(StoreError, match="holds 'other' but no export"):
        claim(folder, Kind("export", ("export.json",)))
    with held(folder, KIND):
        (folder / "record").write_text("")
    assert sorted(path.name for path in folder.iterdir()) == ["other", "record"]
    with held(folder, KIND):
        told = "" if place == "disk" else ", as its lock says"
        assert holder_of(folder) == f"process {os.getpid()} on {os.uname().nodename}{told}"
    assert sorted(path.name for path in folder.iterdir()) == ["other", "record"]


def test_only_what_synthpipe_left_half_written_is_swept(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "own" / "below").mkdir(parents=True)
    (tmp_path / "own" / "link").symlink_to(victim)
    (tmp_path / "own" / "below" / "zarr.0123456789abcdef0123456789abcdef.partial").symlink_to(victim / "README.md")
    names = [HALF, f"below/{HALF}", "below/c.0.0.0.0123abcd.partial", "film.partial", "c.0.film.partial"]
    for name in names:
        (tmp_path / "own" / name).touch()
    before = contents(victim)
    sweep(tmp_path / "own")
    sweep(tmp_path / "own" / "link")
    assert contents(victim) == before
    left = {path.name for path in (tmp_path / "own").rglob("*")}
    assert left == {
        "below", "link", "film.partial", "c.0.film.partial", "zarr.0123456789abcdef0123456789abcdef.partial",
    }  # fmt: skip
