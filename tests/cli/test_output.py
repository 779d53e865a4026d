"""Nothing that a command prints steers a terminal or shows a secret."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.cli.output import plain
from synthpipe.cli.progress import LogReporter, TerminalReporter
from tests.conftest import ROOT, pipeline

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202e"


def test_text_is_shown_line_by_line() -> None:
    assert plain("a\nb\x1b[31m http://u:p@host/\u202e") == "a\nb\\x1b[31m http://host/\\u202e"


def test_status_of_a_strangers_run(tmp_path: Path) -> None:
    settings = pipeline().model_copy(update={"name": HOSTILE})
    about = {"format_version": 1, "name": HOSTILE, "fingerprint": settings.fingerprint(), "catalog_digest": "0" * 64}
    about |= {"versions": {}, "pipeline": settings.model_dump(mode="json")}
    (tmp_path / "run.json").write_text(json.dumps(about))
    for command in (["status"], ["inspect"], ["verify", "--sample", "0"]):
        output = CliRunner().invoke(main, [*command, str(tmp_path)]).output
        assert "\x1b" not in output and "\u202e" not in output and output
    assert "\\x1b[2J" in CliRunner().invoke(main, ["status", str(tmp_path)]).output


def test_arguments_are_shown_likewise(tmp_path: Path) -> None:
    for arguments in (["status", f"{tmp_path}/{HOSTILE}"], ["build", f"{HOSTILE}.yaml"], [HOSTILE]):
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code and "\x1b" not in found.output and "owned" in found.output


def test_progress_shows_names_likewise(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (LogReporter(), TerminalReporter()):
        with shown.stage(f"masks of {HOSTILE}", 2) as advance:
            shown.note(f"note: {HOSTILE}")
            advance(2, HOSTILE)
    assert "\x1b]0" not in capsys.readouterr().err


def test_commands_print_by_one_function_alone() -> None:
    """Only these places call `click.echo`: they escape names themselves, or print no name."""
    found = set()
    for path in (ROOT / "synthpipe" / "cli").glob("*.py"):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
        found |= {path.name for node in calls if node.attr in ("echo", "secho")}
    assert found == {"output.py", "progress.py", "inspect.py", "completion.py"}
