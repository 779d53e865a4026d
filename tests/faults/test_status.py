"""`synthpipe status` from another shell: during a build, after it was killed, and after its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.files.lock import held
from synthpipe.storage.run import RUN
from tests.conftest import DEMO, SMALL


@pytest.fixture(scope="module")
def patches(phantom: Path) -> Path:
    return phantom


@contextmanager
def building(path: Path, patches: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real build in a process of its own, with its workers; whatever happens, all of them end."""
    command = [sys.executable, "-m", "synthpipe", "build", str(DEMO), "-o", str(path), "--workers", "0"]
    for override in (*SMALL, f"patches.root={patches}", *overrides):
        command += ["--set", override]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def status(path: Path) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["status", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def until(path: Path, wanted: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
    """Read the status until `wanted` accepts it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (path / "run.json").exists() and wanted(found := status(path)):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s; the last: {status(path)}")


def part(found: dict[str, Any], what: str) -> dict[str, Any]:
    entry: dict[str, Any] = next(entry for entry in found["progress"] if entry["what"] == what)
    return entry


def test_the_status_follows_a_build_until_it_is_killed(patches: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    rules = (
        "filter.enabled=false",
        "curation.min_class_share=0.3",
        "curation.wanted=40000",
        "curation.max_candidates=90000",
    )
    with building(path, patches, *rules):
        found = until(path, lambda found: part(found, "mosaic candidates")["done"] >= 30)
        assert not found["finished"] and found["stage"] == "mosaic candidates" and found["idle_seconds"] < 30
        entry = part(found, "mosaic candidates")
        assert entry["planned"] == 5000 and entry["done"] < 5000
        assert entry["rate"] > 0
        assert entry["seconds_left"] == pytest.approx((5000 - entry["done"]) * 8 / entry["rate"])
        lines = CliRunner().invoke(main, ["status", str(path)]).stdout.splitlines()
        assert lines[0] == f"{path}: demo, Mosaic candidates" and "composites per second" in lines[2]
        later = until(path, lambda again: part(again, "mosaic candidates")["done"] > entry["done"])
        assert later["stage"] == "mosaic candidates"
    killed = status(path)
    assert killed["stage"] == "mosaic candidates" and killed["idle_seconds"] >= 0
    judged = killed["strategies"]["mosaic"]
    group: Any = zarr.open_group(path / "candidates.zarr" / "mosaic", mode="r")
    pixels = np.asarray(group["class_pixels"][:])
    pixels = pixels[pixels[:, 0] >= 0]  # rows of candidates that are stored
    few = int(((pixels[:, :3] >= 0.3 * 32 * 32).sum(axis=1) < 2).sum())
    assert judged == {
        "judged": len(pixels),
        "of": len(pixels),
        "acceptance": None,
        "rejected": {"too_few_classes": few},
        "damaged": None,
    }
    shown = list((path / "candidates.zarr" / "bezier").glob("class_pixels/c.*"))
    (path / "candidates.zarr" / "mosaic" / "mask" / "zarr.json").write_text("{")
    (path / "candidates.zarr" / "mosaic" / "class_pixels" / "c.0.0").write_bytes(b"damaged")
    damaged = status(path)
    assert part(damaged, "mosaic candidates")["damaged"] and damaged["strategies"]["mosaic"]["damaged"]
    assert damaged["strategies"]["bezier"]["judged"] == 8 * len(shown)
    assert CliRunner().invoke(main, ["status", str(path)]).stdout.count("for details run `synthpipe verify`") == 2


def test_the_status_says_that_a_build_reads_its_patches(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held(run, RUN):
        found = CliRunner().invoke(main, ["status", str(run)])
        assert found.exit_code == 0 and f"patches are being read by process {os.getpid()} on" in found.stdout
    assert "run.json: not found" in CliRunner().invoke(main, ["status", str(run)]).stderr


@pytest.mark.slow
def test_a_build_with_a_filter_is_watched_to_its_end(patches: Path, tmp_path: Path) -> None:
    path, stages = tmp_path / "run", list[str]()
    with building(path, patches, "curation.rule=threshold", "curation.threshold=0.1") as process:
        deadline = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < deadline:
            if (path / "run.json").exists() and (stage := status(path)["stage"]) not in stages:
                stages.append(stage)
            time.sleep(0.02)
        assert process.returncode == 0
    assert stages[0] in ("catalog and donors", "mosaic filter composites")
    assert any(stage.startswith("filter training: ") for stage in stages)
    order = [
        *("catalog and donors", "mosaic filter composites", "bezier filter composites"),
        *("filter training: mosaic, bezier", "filter training: mosaic", "filter training: bezier"),
        *("mosaic candidates", "mosaic scores", "bezier candidates", "bezier scores"),
        *("curated set", "last steps", "finished"),
    ]
    assert set(stages) <= set(order)
    found = status(path)
    journal = json.loads((path / "build.json").read_text())["strategies"]
    assert found["finished"] and found["stage"] == "finished"
    assert all(entry["done"] == entry["planned"] and entry["rate"] is None for entry in found["progress"])
    for file in path.rglob("*"):
        os.utime(file, (time.time() - 1000,) * 2)
    assert status(path)["idle_seconds"] >= 1000
    (path / "filter" / "mosaic.training").touch()  # as after an epoch
    assert status(path)["idle_seconds"] < 500
    for strategy, entry in found["strategies"].items():
        assert entry["judged"] >= journal[strategy]["candidates"]
        if entry["judged"] == journal[strategy]["candidates"]:
            assert entry["acceptance"] == pytest.approx(journal[strategy]["acceptance"])
            assert entry["rejected"].get("looks_synthetic", 0) == journal[strategy]["verdicts"]["looks_synthetic"]


def test_a_large_run_is_judged_by_an_even_sample(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    rules = ("filter.enabled=false", "curation.rule=threshold", "curation.wanted=30", "curation.candidates=40")
    with building(path, patches, *rules) as process:
        assert process.wait(timeout=120) == 0
    monkeypatch.setattr("synthpipe.build.status._JUDGED", 2)
    for entry in status(path)["strategies"].values():
        assert (entry["judged"], entry["of"]) == (16, 30), "shards 0 and 2 of 4"
    assert (
        "Mosaic: 16 judged so far, a sample of 30; rejected: " in CliRunner().invoke(main, ["status", str(path)]).output
    )


def test_a_missing_run_is_refused_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert result.exit_code == 1
    expected = "not found; expected a file of a run that `synthpipe build` wrote"
    assert result.stderr == f"Error: {tmp_path}/run.json: {expected}\n"
