"""The page of all commands, and what every command's help must say."""

from __future__ import annotations

import re
from collections import Counter

import click
import pytest
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.cli.manual import RULES

COMMANDS = {name: main.get_command(click.Context(main), name) for name in main.list_commands(click.Context(main))}


def test_an_option_of_several_commands_has_one_rule() -> None:
    counts = Counter(
        name for command in COMMANDS.values() if command for each in command.params for name in each.opts if "-" in name
    )
    shared = {name for name, count in counts.items() if count > 1}
    assert shared >= {"--device", "--workers", "--set", "--output"}
    assert not [name for name in shared if f"`{name}`" not in RULES]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_of_every_argument(name: str) -> None:
    command = COMMANDS[name]
    assert command and command.help
    arguments = [each.human_readable_name for each in command.params if isinstance(each, click.Argument)]
    assert [each for each in arguments if not re.search(rf"\b{each}\b", command.help)] == []
    assert all(each.help for each in command.params if isinstance(each, click.Option))


def test_no_command_is_cut_short_in_the_list() -> None:
    listed = CliRunner().invoke(main, ["--help"], terminal_width=80).output.split("Commands:\n")[1]
    assert listed.count("\n") == len(COMMANDS) and "..." not in listed
