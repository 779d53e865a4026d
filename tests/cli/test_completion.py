from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.cli.completion import SHELLS

_BIN = Path(sys.executable).parent
_TELL = "\x14"  # Ctrl-T: prints the line as it stands between < and >, and empties it


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pexpect.spawn[str]]:
    """Start bash as a user has it, on a terminal."""
    assert shutil.which("bash")
    environment = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}", "PS1": "ready> ", "TERM": "dumb"}
    folder = tmp_path_factory.mktemp("bash")
    (folder / "pipeline.yaml").touch()
    shell = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], cwd=str(folder), env=environment, encoding="utf-8", timeout=60,
        dimensions=(24, 1000),
    )  # fmt: skip
    shell.expect_exact("ready> ")
    for line in (
        "bind 'set enable-bracketed-paste off'; bind 'set bell-style none'",
        """bind -x '"\\C-t": printf "told <%s>\\n" "$READLINE_LINE"; READLINE_LINE='""",
        "source <(synthpipe completion bash)",
    ):
        shell.sendline(line)
        shell.expect_exact("\nready> ")
    yield shell
    shell.close(force=True)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("synthpipe ins", "synthpipe inspect "),
        ("synthpipe replay run mo", "synthpipe replay run mosaic "),
        ("synthpipe build --sch", "synthpipe build --scheduler "),
        ("synthpipe build pi", "synthpipe build pipeline.yaml "),
        ("synthpipe build --set curation.ru", "synthpipe build --set curation.rule=t"),
        ("synthpipe build --set curation.rule=", "synthpipe build --set curation.rule=t"),
        ("synthpipe build --set curation.rule=to", "synthpipe build --set curation.rule=top_k "),
        ("synthpipe build --set=curation.rule=to", "synthpipe build --set=curation.rule=top_k "),
        (
            "true && synthpipe build pipeline.yaml --set 'curation.thr",
            "true && synthpipe build pipeline.yaml --set 'curation.threshold='",
        ),
        ("synthpipe train --set optimizer.schedule=po", "synthpipe train --set optimizer.schedule=poly "),
        ("synthpipe evaluate --window fl", "synthpipe evaluate --window flips="),
        ("synthpipe build --cluster-set wall", "synthpipe build --cluster-set walltime="),
    ],
)
def test_bash_completes(bash: pexpect.spawn[str], typed: str, completed: str) -> None:
    bash.send(f"{typed}\t{_TELL}")
    bash.expect(r"told <([^>]*)>")
    assert bash.match.group(1) == completed


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_sets_no_space_behind_a_key(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}", "PS1": "ready> ", "TERM": "dumb"}
    shell = pexpect.spawn(
        "zsh", ["-f", "-i"], cwd=str(tmp_path), env=environment, encoding="utf-8", timeout=60, dimensions=(24, 200)
    )
    shell.expect_exact("ready> ")
    for line in (
        "autoload -Uz compinit && compinit -u -D; bindkey -e; setopt no_beep",
        """tell() { print -r -- "told <$BUFFER>"; BUFFER='' }; zle -N tell; bindkey '^T' tell""",
        "source <(synthpipe completion zsh)",
    ):
        shell.sendline(line)
        shell.expect_exact("ready> ")
    for typed, completed in (
        ("synthpipe ins", "synthpipe inspect "),
        ("synthpipe build --set curation.thr", "synthpipe build --set curation.threshold="),
        ("synthpipe build --set curation.rule=to", "synthpipe build --set curation.rule=top_k "),
    ):
        shell.send(f"{typed}\t")
        shell.expect_exact(completed)
        shell.send(_TELL)
        shell.expect(r"told <([^>]*)>")
        assert shell.match.group(1) == completed
    shell.close(force=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = "synthpipe completion fish | source; complete -C 'synthpipe build --set curation.rule=to'"
    done = subprocess.run(["fish", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("curation.rule=top_k\t") and not done.stderr


def test_the_script_for_zsh_is_still_the_one_that_is_changed() -> None:
    assert "_describe -V unsorted keys -U -S ''" in CliRunner().invoke(main, ["completion", "zsh"]).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_its_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0 and f"_SYNTHPIPE_COMPLETE={shell}_complete" in result.stdout
