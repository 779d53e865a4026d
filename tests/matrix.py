"""`python -m tests.matrix`: the versions that `setup.cfg` promises, each in an environment of its own.

Not a test, since it downloads some 12 GB: `make test-matrix`.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from packaging.requirements import Requirement

from tests.conftest import DEMO, ROOT, SMALL

_TORCH = {"torch", "torchvision", "torchmetrics", "timm"}
_TOOLS = ("pytest>=8.3", "hypothesis>=6.100", "psutil>=5.9", "packaging>=23")
_NETWORK = "lcnet_050"  # the lowest timm has no network that is made for tests
_QUICK = (
    *(
        "tests/compose",
        "tests/build/test_curation.py",
        "tests/core/test_records.py",
        "tests/config/test_settings_yaml.py",
    ),
    *("tests/storage/test_chunks.py", "tests/storage/test_checksums.py", "tests/patches/test_labels.py"),
)


@dataclass(frozen=True)
class Row:
    """One environment.

    Attributes
    ----------
    python : str
        Version, such as ``3.11``.
    install : sequence of str
        Options of ``uv pip install``.
    torch : bool
        Whether torch and what needs it are installed.
    """

    python: str
    install: Sequence[str]
    torch: bool = True


ROWS = {
    "3.11-pinned": Row("3.11", ("--constraint", str(ROOT / "constraints.txt"))),
    "3.11-lowest": Row("3.11", ("--resolution", "lowest-direct")),
    "3.12-newest": Row("3.12", ()),
    "3.13-newest-without-torch": Row("3.13", (), torch=False),
}


@dataclass(frozen=True)
class Outcome:
    """Result of a row: digests of the bytes that it built ("" if it cannot), and what failed ("" for nothing)."""

    name: str
    rendered: str = ""
    scored: str = ""
    failure: str = ""
    seconds: float = 0.0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("names", nargs=-1, metavar="[ROW]...", type=click.Choice([*ROWS]))
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep the environments and runs here [a temporary folder]."
)
def main(names: Sequence[str], folder: Path | None) -> None:
    """Build the demo and run the quick tests in each ROW (by default in all), and compare the bytes that they build.

    The interpreters must be installed. The exit code is 1 where a row fails, or builds other bytes than the first.

    \b
    Examples:
      python -m tests.matrix
      python -m tests.matrix 3.11-pinned 3.13-newest-without-torch --folder /tmp/matrix
    """
    with tempfile.TemporaryDirectory(prefix="matrix-") as temporary:
        outcomes = [_tried(name, (folder or Path(temporary)).absolute() / name) for name in names or ROWS]
    judged = [(each, each.failure or _difference(each, outcomes)) for each in outcomes]
    for outcome, problem in judged:
        click.echo(
            f"{outcome.name:28}{outcome.rendered[:12]:14}{outcome.scored[:12]:14}{outcome.seconds:6.0f} s  "
            f"{problem or 'passed'}"
        )
    if any(problem for _, problem in judged):
        sys.exit(1)


def _difference(outcome: Outcome, outcomes: Iterable[Outcome]) -> str:
    for what in ("rendered", "scored"):
        first = next((each for each in outcomes if getattr(each, what)), outcome)
        if getattr(outcome, what) and getattr(outcome, what) != getattr(first, what):
            return f"{what} other bytes than {first.name}"
    return ""


def _tried(name: str, folder: Path) -> Outcome:
    row, begun = ROWS[name], time.monotonic()
    rendered = scored = failure = ""
    click.echo(f"{name}: installing", err=True)
    try:
        python = _installed(row, folder)
        click.echo(f"{name}: building", err=True)
        rendered = _built(python, folder, "rendered", "--set", "filter.enabled=false")
        # the oldest and the newest torch round batches of 16 differently, and those of 32 alike
        network = ("--set", f"filter.network={_NETWORK}", "--set", "filter.batch=32")
        scored = _built(python, folder, "scored", *network) if row.torch else ""
        click.echo(f"{name}: testing", err=True)
        _done([python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *_QUICK, "-o", "addopts="], ROOT)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or f"exit code {error.returncode}").strip().splitlines()
        failure = "\n  ".join([" ".join(error.cmd), *said[-5:]])
    return Outcome(name, rendered, scored, failure, time.monotonic() - begun)


def _installed(row: Row, folder: Path) -> str:
    """Make the environment, and return its interpreter."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    needed = [Requirement(line) for line in settings["options"]["install_requires"].strip().splitlines()]
    wanted = [str(each) for each in needed if row.torch or each.name not in _TORCH]
    python = str(folder / "env" / "bin" / "python")
    uv = [sys.executable, "-m", "uv"]
    _done([*uv, "venv", "--quiet", "--clear", "--python", row.python, str(folder / "env")], ROOT)
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    _done([*install, "--only-binary", ":all:", *row.install, *wanted], ROOT)
    _done([*install, *_TOOLS], ROOT)
    _done([*install, "--no-deps", str(ROOT)], ROOT)
    return python


def _built(python: str, folder: Path, name: str, *options: str) -> str:
    """Build the demo made small, check it, and return the digest of all stored objects."""
    command = [python, "-m", "synthpipe"]
    patches, run = folder / "phantom", folder / name
    if not patches.exists():
        _done([*command, "phantom", str(patches), "--slide-count", "6", "--patch-count", "90", "--size", "48"], folder)
    overrides = [part for each in (*SMALL, f"patches.root={patches}") for part in ("--set", each)]
    _done([*command, "build", str(DEMO), *overrides, *options, "--workers", "1", "-o", str(run)], folder)
    _done([*command, "verify", str(run)], folder)
    found = hashlib.sha256()
    for path in sorted(run.rglob("c.*")):
        found.update(f"{path.relative_to(run)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _done(command: Sequence[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    main()
