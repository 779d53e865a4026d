from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.cli.completion import SHELLS

_BIN = Path(sys.executable).parent


def completed(*words: str) -> list[str]:
    """Return what bash offers for the last of the words of a command line, by our script."""
    script = (
        f'source <("{sys.executable}" -m synthpipe completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        r'_synthpipe_completion synthpipe "${@: -1}"; printf "%s\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", script, "bash", "synthpipe", *words]
    environment = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ins",), ["inspect"]),
        (("replay", "run", "mo"), ["mosaic"]),
        (("build", "--sch"), ["--scheduler"]),
        (("build", "--set", "curation.ru"), ["curation.rule=threshold", "curation.rule=top_k"]),
        (
            ("train", "--set", "optimizer.sch"),
            ["optimizer.schedule=" + name for name in ("constant", "cosine", "poly")],
        ),
        (("evaluate", "--window", "fl"), ["flips="]),
        (("build", "--cluster-set", "wall"), ["walltime="]),
    ],
)
def test_bash_completes(words: tuple[str, ...], offered: list[str]) -> None:
    assert shutil.which("bash")
    assert sorted(completed(*words)) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_its_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0 and f"_SYNTHPIPE_COMPLETE={shell}_complete" in result.stdout
