"""Going on with a run: what is refused, and how a finished one is extended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from synthpipe.build import build
from synthpipe.cli.main import main
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import Pipeline
from synthpipe.core.errors import ClusterError, FilterError, StaleRunError
from synthpipe.curated import CuratedSet
from synthpipe.runtime import ClusterSettings, ExistingCluster, JobQueue, Local
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.schema import array, open_group
from synthpipe.storage.shard_writing import write_shard
from synthpipe.verification import verify
from tests.conftest import DEMO, pipeline

HERE = ClusterSettings(Local(0))
SMALL = (
    *("canvas=32", "mosaic.tile=16", "filter.enabled=false", "curation.rule=threshold", "curation.wanted=12"),
    *("curation.candidates=16", "curation.max_candidates=80", "store.shard=8"),
)


@pytest.fixture(scope="module")
def patches(phantom: Path) -> Path:
    return phantom


def small(patches: Path, *overrides: str) -> Pipeline:
    return pipeline(*SMALL, f"patches.root={patches}", *overrides)


@pytest.fixture(scope="module")
def finished(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    build(small(patches), path, HERE, LogReporter())
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def unfinished(run: Path) -> Path:
    (run / "build.json").unlink()
    return run


def objects(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("c.*")}


def files(run: Path) -> dict[str, bytes]:
    found = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_files_of_another_user_are_not_called_damaged(run: Path) -> None:
    """Commands are given by a user who may see the run, but not read this file of it."""
    place = Path(tempfile.mkdtemp())  # where other users may look, as in no folder of pytest
    place.chmod(0o755)
    shutil.copytree(run, place / "run")
    try:
        for name in ("candidates.zarr/bezier/mask/zarr.json", "candidates.zarr/bezier/class_pixels/c.0.0", "run.json"):
            path = place / "run" / name
            path.chmod(0o600)
            for command in ("status", "verify", "inspect"):
                code, output = _as_nobody([command, str(place / "run")])
                if command != "inspect" or name == "run.json":
                    assert code == 1 and f"{path}: cannot be read: Permission denied; ask its owner" in output, output
                assert "amaged" not in output and "--repair" not in output and "fault of synthpipe" not in output
            path.chmod(0o644)
    finally:
        shutil.rmtree(place)


def _as_nobody(arguments: list[str]) -> tuple[int, str]:
    """Give a command in a child process of another user; what it imports is loaded already."""
    source, target = os.pipe()
    if not (child := os.fork()):
        os.setgid(65534)
        os.setuid(65534)
        result = CliRunner().invoke(main, arguments)
        os.write(target, f"{result.exit_code}\n{result.output}"[:60_000].encode())
        os._exit(0)
    os.close(target)
    with os.fdopen(source, encoding="utf-8") as output:
        code, _, text = output.read().partition("\n")
    os.waitpid(child, 0)
    return int(code), text


def test_a_finished_run_is_extended_and_old_composites_keep_their_bytes(
    run: Path, patches: Path, tmp_path: Path
) -> None:
    old, before = CuratedSet(run / "curated.zarr"), objects(run / "candidates.zarr")
    more = small(patches, "curation.wanted={mosaic: 30, bezier: 12}")
    with pytest.raises(StaleRunError, match=r"is finished; use --extend .*\n.*curation\.wanted\.mosaic: 12 -> 30"):
        build(more, run, HERE, LogReporter())
    rounds = RunDirectory(run).journal()["rounds"]
    build(more, run, HERE, LogReporter(), extend=True)
    extended = RunDirectory(run).journal()["rounds"]
    assert [row for row in extended if row["wanted"] == 12 and row["strategy"] == "mosaic"] == rounds[:1]
    assert [row["kept"] for row in extended if row["strategy"] == "mosaic"][-1] == 30
    new = CuratedSet(run / "curated.zarr")
    assert len(new) == 42 and [new.origin(index) for index in range(12)] == [old.origin(index) for index in range(12)]
    after = objects(run / "candidates.zarr")
    assert len(after) > len(before)
    assert all(after[name] == data for name, data in before.items() if "verdict" not in name)
    build(more, tmp_path / "fresh", HERE, LogReporter())
    assert objects(run / "curated.zarr") == objects(tmp_path / "fresh" / "curated.zarr")
    aside = list(run.glob("curated-*.zarr"))
    assert len(aside) == 1 and CuratedSet(aside[0]).digest == old.digest
    assert any(
        f"{aside[0]}: not checked: an earlier curated set" in note for note in verify(run, 0, LogReporter()).notes
    )
    build(more, run, HERE, LogReporter())  # finished: nothing to do


def test_after_an_extension_that_failed_a_run_may_be_extended_again(patches: Path, tmp_path: Path) -> None:
    def wanted(count: int) -> Pipeline:
        return small(patches, "mosaic=null", "curation.max_donor_uses=2", f"curation.wanted={count}")

    path = tmp_path / "run"
    build(wanted(8), path, HERE, LogReporter())
    old = CuratedSet(path / "curated.zarr")
    with pytest.raises(FilterError, match=r"of 80 Bezier candidates can be kept, but 60 are wanted"):
        build(wanted(60), path, HERE, LogReporter(), extend=True)
    build(wanted(8), path, HERE, LogReporter())
    build(wanted(10), path, HERE, LogReporter(), extend=True)
    assert len(CuratedSet(path / "curated.zarr")) == 10
    assert [CuratedSet(aside).digest for aside in path.glob("curated-*.zarr")] == [old.digest] * 2


def test_verdicts_are_written_where_they_are_new_and_nowhere_else(
    run: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verdicts() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (run / "candidates.zarr").rglob("verdict/c.*")}

    bytes_before, before = objects(run / "candidates.zarr"), verdicts()
    damaged, gone, *_ = sorted(before)
    damaged.write_bytes(b"")
    gone.unlink()
    build(small(patches), unfinished(run), HERE, LogReporter())
    assert objects(run / "candidates.zarr") == bytes_before
    assert {path for path, written in verdicts().items() if written != before[path]} == {damaged, gone}
    log = capsys.readouterr().err
    assert "mosaic verdicts: 12 in" in log and "bezier verdicts: 12 in" in log


def test_only_more_of_the_same_is_an_extension(run: Path, patches: Path) -> None:
    for change in ("curation.wanted=11", "curation.threshold=0.9", "seed=3"):
        with pytest.raises(
            StaleRunError, match=f"--extend allows only a larger curation.wanted.*\\n.*{change.split('=')[0]}"
        ):
            build(small(patches, change), run, HERE, LogReporter(), extend=True)
    with pytest.raises(StaleRunError, match="is not finished; finish it before you extend it"):
        build(small(patches, "curation.wanted=20"), unfinished(run), HERE, LogReporter(), extend=True)


def test_by_rule_top_k_more_candidates_might_replace_some(patches: Path, tmp_path: Path) -> None:
    rule = "curation.rule=top_k"
    build(small(patches, rule), tmp_path / "run", HERE, LogReporter())
    with pytest.raises(StaleRunError, match=r"curation\.candidates\.mosaic: 16 -> 32"):
        build(
            small(patches, rule, "curation.candidates=32"),
            tmp_path / "run",
            HERE,
            LogReporter(),
            extend=True,
        )


def test_patches_that_changed_are_named(run: Path, patches: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(patches, tmp_path / "other"))
    names = sorted(path.name for path in (other / "1.training").iterdir())
    (other / "1.training" / names[0]).unlink()
    shutil.copy(other / "1.training" / names[1], other / "1.training" / "1.png")
    (other / "1.training" / names[1]).rename(other / "1.training" / f"a{names[1]}")
    (other / "1.training" / "1.png").unlink()
    with (other / "1.training" / names[2]).open("ab") as file:
        file.write(b"more")
    with pytest.raises(StaleRunError) as caught:
        build(small(other), unfinished(run), HERE, LogReporter())
    message = str(caught.value)
    assert f"patch {names[0]!r}: is gone" in message and f"patch {names[2]!r}: has other bytes" in message
    assert f"patch {names[1]!r}: is gone" in message and f"patch 'a{names[1]}': is new" in message


def test_packages_that_make_other_pixels_are_refused(run: Path, patches: Path) -> None:
    image = array(open_group(run / "candidates.zarr", "bezier", writable=True), "image")
    altered = np.asarray(image[:8]).copy()
    altered[0, 3, 3, 0] ^= 1
    write_shard(image, 0, altered)
    data = json.loads((run / "run.json").read_text())
    data["versions"]["opencv-python-headless"] = "3.2.1"
    (run / "run.json").write_text(json.dumps(data))
    with pytest.raises(
        StaleRunError,
        match=r"the installed packages render different pixels.*\n  opencv-python-headless: 3\.2\.1 -> \d",
    ):
        build(small(patches), unfinished(run), HERE, LogReporter())


@pytest.mark.parametrize("reason", ["pixels", "cluster", "moved patches"])
def test_a_refused_extension_leaves_a_finished_run_as_it_was(
    reason: str, run: Path, patches: Path, tmp_path: Path
) -> None:
    image = array(open_group(run / "candidates.zarr", "bezier", writable=True), "image")
    altered = np.asarray(image[:8]).copy()
    altered[0, 3, 3, 0] ^= 1
    write_shard(image, 0, altered)
    more = small(patches, "curation.wanted={mosaic: 30, bezier: 12}")
    if reason == "moved patches":
        moved = Path(shutil.copytree(patches, tmp_path / "moved"))
        more = small(moved, "curation.wanted={mosaic: 30, bezier: 12}")
    before = files(run)
    with pytest.raises(ClusterError if reason == "cluster" else StaleRunError):
        where = ClusterSettings(Local(1, memory=1 << 20)) if reason == "cluster" else HERE
        build(more, run, where, LogReporter(), extend=True)
    assert files(run) == before


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (ExistingCluster("tcp://127.0.0.1:9"), r"--scheduler tcp://127\.0\.0\.1:9: no connection"),
        (JobQueue("slurm"), "--cluster slurm: sbatch is not found"),
    ],
)
def test_a_cluster_that_is_not_there_is_named_before_patches_are_read(
    where: ExistingCluster | JobQueue, found: str, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthpipe.runtime.cluster._SECONDS_TO_CONNECT", 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=found):
        build(small(patches), tmp_path / "run", ClusterSettings(where), LogReporter())
    assert not (tmp_path / "run").exists()


def test_what_killed_processes_were_writing_is_removed(run: Path, patches: Path) -> None:
    number = "0123456789abcdef" * 2
    left = run / "candidates.zarr" / "mosaic" / "image" / "c.0.0.0.0.1234abcd.partial"
    of_a_training = run / "segmentation" / f".last.ckpt.{number}.partial"
    of_a_user = run / "candidates.zarr" / "download.partial"
    of_a_training.parent.mkdir()
    for path in (left, run / f".run.json.{number}.partial", of_a_training, of_a_user):
        path.write_bytes(b"half")
    build(small(patches), unfinished(run), HERE, LogReporter())
    assert {*run.rglob("*.partial")} == {of_a_training, of_a_user}, "a training has a lock of its own"


def test_a_second_build_is_refused_while_the_first_goes_on(patches: Path, tmp_path: Path, finished: Path) -> None:
    options = [part for each in (*SMALL, f"patches.root={patches}") for part in ("--set", each)]
    command = [
        sys.executable,
        "-m",
        "synthpipe",
        "build",
        str(DEMO),
        *options,
        "-o",
        str(tmp_path / "run"),
        "--workers",
        "0",
    ]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / ".lock").exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # however slow it is
    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    os.kill(first.pid, signal.SIGCONT)
    _, log = first.communicate(timeout=120)
    assert first.returncode == 0, log
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith(
        f"Error: {tmp_path / 'run'}: is being written by process {first.pid} on"
    )
    assert objects(tmp_path / "run") == objects(finished)
