"""The code of docs/curated-sets.md as it stands, with the packages that it names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "curated-sets.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PIECES = {
    "print(curated)": r"^CuratedSet of 80 samples .*\n(  .*\n)+\(64, 64, 3\) \(64, 64\) \['image', 'mask', 'labels'\]\n"
    r"{'train': 40, 'val': 40}$",
    "from torchvision": r"torch\.Size\(\[8, 3, 64, 64\]\) tensor\(\[0, 1, 2, 3\]",
    "dataset = curated.to_xarray": r"{'sample': \d+, .*'channel': 3.*} mosaic bezier",
    "import dask.array": r"{'tumour': \d+, 'stroma': \d+, 'normal': \d+, 'background': \d+}",
    "import tensorstore": r"\(3, 64, 64, 3\)",
    "import zarrs": r"\(12, 64, 64, 3\)",
    "from napari": r"^composites classes (0; class: tumour|1; class: stroma|2; class: normal|3; class: background)\n",
    "synthpipe.open_run": r"\A\Z",  # it writes a picture and prints nothing
}

LOOPS = ("## Plain torch", "## Lightning", "## MONAI")


def code_below(heading: str) -> str:
    return PAGE.split(heading + "\n")[1].split("```python\n")[1].split("```")[0]


def run(code: str, folder: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stdout


def test_every_piece_of_code_is_tested() -> None:
    assert len(CODE) == len(LOOPS) + len(PIECES) and PAGE.count("```") == 2 * len(CODE)


_ONE_BY_ONE = """
import contextlib, io, json, sys
printed = {}
for sign, code in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, sign, "exec"), {"__name__": "__main__"})
    printed[sign] = out.getvalue()
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def working_folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pieces of code run, with the run and its patches."""
    folder = tmp_path_factory.mktemp("pieces")
    for name in ("runs", "data"):
        (folder / name).symlink_to(home / name)
    return folder


@pytest.fixture(scope="module")
def printed_by_pieces(working_folder: Path) -> dict[str, str]:
    """Run all pieces in one process, one after the other, and return what each printed."""
    codes = {sign: code for sign in PIECES for code in CODE if sign in code}
    command = [sys.executable, "-c", _ONE_BY_ONE, json.dumps(codes)]
    result = subprocess.run(command, cwd=working_folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("sign", PIECES)
def test_a_piece_runs_and_reads_the_same_pixels(
    sign: str, printed_by_pieces: dict[str, str], working_folder: Path
) -> None:
    assert len([code for code in CODE if sign in code]) == 1
    assert re.search(PIECES[sign], printed_by_pieces[sign])
    if sign == "synthpipe.open_run":
        assert (working_folder / "composite.png").read_bytes().startswith(b"\x89PNG")


def losses(lines: list[str], epoch: int) -> float:
    """Return the mean training loss of an epoch."""
    found = [float(line.split()[3]) for line in lines if line.startswith(f"epoch {epoch} loss")]
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def printed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return the epochs that the code below a heading prints without an interruption."""

    @cache
    def lines(heading: str) -> list[str]:
        folder = tmp_path_factory.mktemp("whole")
        for name in ("runs", "data"):
            (folder / name).symlink_to(home / name)
        return epochs(run(code_below(heading), folder))

    return lines


def epochs(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("epoch")]


@pytest.mark.slow
@pytest.mark.parametrize("heading", LOOPS)
def test_a_training_loop_learns(heading: str, printed: Callable[[str], list[str]]) -> None:
    lines = printed(heading)
    last = int(lines[-1].split()[1])
    assert losses(lines, last) < 0.9 * losses(lines, 0)
    for epoch in range(last + 1):
        assert any(re.match(rf"epoch {epoch} .*validation \w+ 0?\d\.\d{{4}}$", line) for line in lines)


@pytest.mark.faults
@pytest.mark.parametrize("heading", LOOPS[:2])
def test_a_loop_that_is_killed_goes_on_to_the_same_numbers(
    heading: str, printed: Callable[[str], list[str]], beside: Path
) -> None:
    command = [sys.executable, "-c", code_below(heading)]
    begun: list[str] = []
    with subprocess.Popen(command, cwd=beside, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        for line in process.stdout:
            begun += epochs(line)
            if sum(line.startswith("epoch 1 loss") for line in begun) == 7:  # there was a checkpoint since its first
                break
        os.killpg(process.pid, signal.SIGKILL)
    whole, rest = printed(heading), epochs(run(code_below(heading), beside))
    assert begun == whole[: len(begun)] and rest == whole[-len(rest) :]
    assert len(begun) + len(rest) < len(whole) + 7 and rest[0].startswith("epoch 1 loss")
