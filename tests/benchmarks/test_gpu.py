from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.part_results import PartResults, is_wrong, table
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.running import SHARES, run_parts
from tests.conftest import ROOT

ON_A_CPU = {
    "filter training": {
        "float32: one seed gives the same weights",
        "mixed precision: one seed gives the same weights",
        "mixed precision has the same loss as float32",
    },
    "scoring": {
        *(
            "the order of the shards changes no bit",
            "the shard size changes no bit",
            "other images change no bit of a score",
        ),
        "scores are close to those of a CPU",
    },
    "segmentation": {
        *("float32: the loss is finite", "mixed precision: the loss is finite"),
        "mixed precision has the same first loss as float32",
    },
    "whole chain": {
        *("filters are trained on the device", "verify finds no fault", "a training takes all its steps"),
        "an evaluation has a mean IoU",
    },
    "shared card": {"two workers on one device make equal bytes"},
    "resuming": {"a killed training ends with the same number of steps", "it resumes with the same losses, bit by bit"},
    "full memory": {
        *(
            "scoring names the setting to change",
            "filter training names the setting to change",
            "build names the setting to change",
        ),
        *("scoring works again when memory is free", "segmentation names the setting to change"),
    },
    "compiled": {"compiled training has the same loss"},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", SHARES)
def test_each_part_runs_to_its_end_and_is_right(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the command sets it; the end of this test restores it
    result = tmp_path / "gpu.json"
    done = CliRunner().invoke(main, ["--cpu", "--part", part, "--seconds", "500", "-o", str(result)])
    assert done.exit_code == 0, done.output
    found = json.loads(result.read_text())
    assert found["card"] == "CPU" and found["versions"]["torch"] and found["scale"]["canvas"] == 48
    assert found["parts"][part]["checks"] == dict.fromkeys(ON_A_CPU[part], True)
    assert all(row.get("images_a_second", 1) > 0 for row in found["parts"][part]["rows"].values())
    assert f"| {part} | {min(ON_A_CPU[part])} | yes |" in done.stdout


def test_every_part_has_a_share_of_the_time() -> None:
    assert list(PARTS) == list(SHARES) == list(ON_A_CPU) and sum(SHARES.values()) <= 60 * 8


def test_a_part_that_takes_too_long_is_cut_and_its_error_says_so(tmp_path: Path) -> None:
    ((name, part),) = run_parts(["scoring"], tmp_path, cpu=True, seconds=0)
    assert name == "scoring" and "was stopped: it took longer than its" in part["error"] and is_wrong(part)
    assert f"| scoring | **failed** | {part['error']} |" in table({name: part})


def test_what_a_part_found_before_it_failed_is_kept(tmp_path: Path) -> None:
    found = PartResults(tmp_path / "part.json")
    found.row("a row", {"images_a_second": 1200.0, "of_bare": 0.93, "peak_memory": 1 << 30})
    found.check("a check", True)
    found.error("RuntimeError: CUDA error:\nmisaligned address")
    part = json.loads((tmp_path / "part.json").read_text())
    assert table({"part": part})[2:] == [
        "| part | a row | 1,200 images/s; 93% of the bare network; 1.0 GiB at most |",
        "| part | a check | yes |",
        "| part | **failed** | RuntimeError: CUDA error: misaligned address |",
    ]
    assert is_wrong(part)


def test_without_a_gpu_the_command_says_so() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1 and "torch finds no GPU; --cpu runs all parts" in done.stderr
