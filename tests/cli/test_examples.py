"""The first example of every command's ``--help``, given to a shell as it stands, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image as Pillow

from synthpipe.cli import main
from synthpipe.config import pipeline_file
from tests import conftest
from tests.conftest import DEMO
from tests.segment.conftest import settings

ORDER = (
    *(
        "doctor",
        "phantom",
        "index",
        "init",
        "validate",
        "schema",
        "build",
        "status",
        "inspect",
        "report",
        "verify",
        "replay",
    ),
    *("materialize", "export", "train", "evaluate", "predict", "pseudo-label", "self-train", "baseline", "completion"),
)
"""Each example needs what the examples before it make."""

SMALL = (
    *(*conftest.SMALL, "canvas=64", "mosaic.tile=32", "filter.candidates=20", "store.shard=16"),
    *("curation.wanted=24", "curation.candidates=48", "curation.max_candidates=96"),
)


def examples(command: str) -> list[str]:
    """Return the examples that a command's help ends with, each on one line."""
    text = CliRunner().invoke(main, [command, "--help"]).output.replace("\\\n", " ")
    found = re.search(r"\n  Examples:\n((?:    .*\n)+)", text)
    return [" ".join(line.split()) for line in found[1].splitlines()] if found else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pipeline file and the training file of the demo, made smaller."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "pipelines" / "training").mkdir(parents=True)
    small = pipeline_file.load(DEMO, SMALL).model_dump(mode="json")
    (folder / "pipelines" / "demo.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    training = yaml.safe_dump(settings().dump())
    (folder / "pipelines" / "training" / "demo.yaml").write_text(training, encoding="utf-8")
    return folder


def test_every_command_has_examples_that_are_tried() -> None:
    names = main.list_commands(click.Context(main))
    assert set(ORDER) == set(names) and all(map(examples, names))


@pytest.fixture(scope="module")
def run_first(place: Path) -> Callable[[str], None]:
    """Return a function that runs the first example of a command, once."""

    @cache
    def run(command: str) -> None:
        line = examples(command)[0]
        assert re.search(rf"\bsynthpipe {command}\b", line)
        if command == "materialize":  # the demo's run stores its pixels
            line = f"synthpipe build pipelines/demo.yaml --set store.pixels=virtual -o runs/virtual\n{line}"
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        result = subprocess.run(
            ["bash", "-euc", line], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        if command == "phantom":
            leave_one_small_image(place / "data" / "phantom")

    return run


def leave_one_small_image(phantom: Path) -> None:
    """Remove most images with masks: one small image is enough to test on, and to choose weights by."""
    for folder in ("2.validation", "3.testing"):
        for pictures in (phantom / folder).iterdir():
            first, *others = sorted(pictures.iterdir())
            with Pillow.open(first) as picture:
                picture.crop((0, 0, 80, 80)).save(first)
            for picture_file in others:
                picture_file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("command", ORDER)
def test_the_first_example_runs(run_first: Callable[[str], None], command: str) -> None:
    for name in ORDER[: ORDER.index(command) + 1]:
        run_first(name)
