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

`synthpipe COMMAND --help` shows the section of a command. `python -m synthpipe.cli.manual > docs/commands.md` writes
this page.

## Common arguments and options

An argument or an option has the same meaning in every command.

| argument | meaning |
|---|---|
| `PIPELINE` | a pipeline file, or the name of a file that comes with synthpipe, such as `demo` |
| `RUN` | the folder or URL that `synthpipe build` wrote |
| `CURATED` | a finished run, its `curated.zarr`, or the store of `synthpipe pseudo-label` |
| `CHECKPOINT` | a checkpoint file, or the folder of a training, which means its `best.ckpt` |

| option | meaning |
|---|---|
| `-o`, `--output` | location of the output. A folder or store must be new, or begun by the same command, which then resumes it. The command refuses other folders and stores, so there is no `--force`. A single file is replaced. But `init` replaces no file, and `report` replaces only reports |
| `--set` | replaces a key of the settings file, which is `PIPELINE` or `--config`; can be repeated. `--cluster-set` does the same for `--cluster-config` |
| `--config` | a settings file, or the name of a settings file that comes with synthpipe |
| `--dry-run` | prints the plan of the command, and writes nothing |
| `--json` | prints everything as JSON |
| `--workers` | worker processes on this machine; by default one per core. With 0, the command does all work in its own process, without Dask |
| `--readers` | number of processes that read data ahead, for each device of a training |
| `--device` | device of networks: `cpu`, `cuda` (any GPU) or `cuda:1`. A training accepts several devices, such as `cuda:0,cuda:1`. A build accepts only a kind of device, `cpu` or `cuda`, because each worker chooses its own device |
| `--batch` | number of images per call of the network; if images are cut into windows, `--window batch=N` sets the number of windows per call |
| `--window` | a setting of the windows that images are cut into: size, stride, scales, flips, blend or batch; can be repeated |
| `--patches` | the present location of a run's patches, if they have moved or need credentials |
| `--real` | real patches: `train` and `baseline` train with them, `pseudo-label` predicts their masks, and `self-train` does both |
| `--keep` | the share of each class's pixels that keep it in predicted masks; the other pixels are ignored |
| `--layout` | layout of patches in folders and names |
| `--label-pattern` | for layout `pattern`: a regular expression that finds the class in file names |
| `--classes` | class names in index order; by default the classes that the patches name |
| `--val`, `--data`, `--masks` | folders with `img/` and `mask/`: `--val` for choosing the best weights, `--data` for measuring, `--masks` for training |
| `--mask-map` | the class of each mask value; by default mask values are class indices |
| `--any-palette` | takes mask values as class indices, and ignores the colours of palettes |
| `--glass`, `--no-glass` | whether empty glass is ignored |
| `--max-pixels` | images with more pixels are refused before they are decoded |
| `--index` | indices of composites, counted from 0; `--sample` is a number of composites |

A refused command leaves nothing behind: no folder, no parent folder, no lock. The exit code is 0 on success, 2 if the
command line is wrong, and 1 for all other faults.
"""  # noqa: E501  # rows of tables


def page() -> str:
    """Return the text of the page: the rules, then usage, options, defaults and examples of every command."""
    context = click.Context(main, info_name="synthpipe")
    parts = [RULES]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command  # nosec B101 # for mypy: all listed commands exist
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
    text, _, bracketed = (option.help or "").rstrip(".").partition(" [")
    default = bracketed.removesuffix("]")
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
    sys.stdout.write(page())  # `say` would leave out the passwords of the examples
