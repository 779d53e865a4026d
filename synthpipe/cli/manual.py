"""Write ``docs/commands.md`` from the commands: ``python -m synthpipe.cli.manual > docs/commands.md``."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator

import click

from synthpipe.cli.main import main

RULES = """\
# Commands

`synthpipe COMMAND --help` shows the text of this page about a command. The page is written by
`python -m synthpipe.cli.manual > docs/commands.md`.

## What is the same everywhere

An argument or an option means the same in every command that has it.

| argument | is |
|---|---|
| `PIPELINE` | a pipeline file, or the name of a file that comes with synthpipe, such as `demo` |
| `RUN` | the folder or URL that `synthpipe build` wrote |
| `CURATED` | a finished run, its `curated.zarr`, or the store of `synthpipe pseudo-label` |
| `CHECKPOINT` | a file, or the folder of a training, whose `best.ckpt` it stands for |

| option | is |
|---|---|
| `-o`, `--output` | where the command writes. A folder or store must be new, or begun by the same command, which then resumes it. Others are refused, so there is no `--force`. A single file is replaced, except by `init`; `report` replaces only reports |
| `--set` | replaces a key of the settings file, `PIPELINE` or `--config`. It can be repeated, as can `--window`, and `--cluster-set` for `--cluster-config` |
| `--config` | a settings file, or the name of one that comes with synthpipe |
| `--dry-run` | prints what would be done, and writes nothing |
| `--json` | prints everything as JSON |
| `--workers` | worker processes on this machine; by default one per core. With 0, `build` and `verify --repair` run all tasks in the command's process, without Dask |
| `--readers` | processes that read data ahead, for each device of a training |
| `--device` | where networks compute: `cpu`, `cuda` (any GPU), `cuda:1`. A training takes several devices, as `cuda:0,cuda:1`. A build takes only a kind, `cpu` or `cuda`, because its workers choose |
| `--batch` | images per call of the network; if images are cut into windows, `--window batch=N` sets the windows per call |
| `--window` | how images are cut into windows: size, stride, scales, flips, blend or batch |
| `--patches` | the location of a run's patches now, if they have moved or need credentials |
| `--real` | real patches that a network trains on, or labels |
| `--layout` | how patches are laid out in folders and names |
| `--label-pattern` | for layout `pattern`: a regular expression that finds the class in file names |
| `--classes` | class names in index order; by default those that the patches name |
| `--val`, `--data`, `--masks` | folders with `img/` and `mask/`: to choose weights by, to measure on, to train on |
| `--mask-map` | what the values of masks mean; without it they are class indices |
| `--any-palette` | takes mask values as class indices, whatever the palette colours are |
| `--glass`, `--no-glass` | whether empty glass is ignored |
| `--max-pixels` | images with more pixels are refused before they are decoded |
| `--index` | indices of composites, counted from 0; `--sample` is the number of composites to draw |

A refused command leaves nothing behind: no folder, no parent folder, no lock. The exit code is 0 on success, 2 if the
command line is wrong, and 1 if anything else is wrong.
"""  # noqa: E501  # rows of tables


def page() -> str:
    """Return the page: the rules, then every command with its usage, options, defaults and examples."""
    context = click.Context(main, info_name="synthpipe")
    parts = [RULES]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command  # nosec B101 # for mypy: it is listed
        parts.append("\n".join(_section(name, command)))
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> Iterator[str]:
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    options = [each for each in command.params if isinstance(each, click.Option)]
    yield f"## {name}\n"
    yield f"```\n{' '.join(['synthpipe', name, *(['[OPTIONS]'] if options else []), *arguments])}\n```\n"
    for paragraph in text.strip().split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"
    if options:
        yield "| option | default | |\n|---|---|---|"
        yield from map(_row, options)
        yield ""
    yield f"```\n{textwrap.dedent(examples).rstrip()}\n```\n"


def _argument(argument: click.Argument) -> str:
    name = argument.human_readable_name + "..." * (argument.nargs == -1)
    return name if argument.required else f"[{name}]"


def _row(option: click.Option) -> str:
    """Return a row of the table; a default in brackets at the end of a help text gets its own column."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    text, _, told = (option.help or "").rstrip(".").partition(" [")
    default = told.removesuffix("]")
    if option.required:
        default = "required"
    elif option.show_default:
        default = f"`{option.opts[0] if option.default is True else option.default}`"
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    if not all(each in text for each in choices):
        text += f": {', '.join(choices)}"
    value = "" if option.metavar is None else " `{}`".format(option.metavar.replace("|", r"\|"))
    return f"| {names}{value} | {default} | {text} |"


if __name__ == "__main__":
    sys.stdout.write(page())  # its examples have passwords, which `say` would leave out
