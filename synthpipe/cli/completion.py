"""`synthpipe completion`: print the shell script that completes commands."""

from __future__ import annotations

import os
from typing import ClassVar, Literal

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the shell script that completes commands.

    SHELL is bash, zsh or fish. The script completes commands, options, files, and the keys of --set.

    \b
    Examples:
      source <(synthpipe completion bash)
      synthpipe completion bash >> ~/.bashrc
      synthpipe completion zsh >> ~/.zshrc
      synthpipe completion fish > ~/.config/fish/completions/synthpipe.fish
    """
    kind = get_completion_class(shell)
    assert kind  # nosec B101 # for mypy: click knows all of SHELLS
    click.echo(kind(ctx.find_root().command, {}, "synthpipe", "_SYNTHPIPE_COMPLETE").source())


@add_completion_class
class Bash(BashComplete):
    """Completion for bash; the script passes the whole line to click, because bash ends a word at `=`.

    Only the part of a completion after the last `=` replaces the typed text.
    """

    source_template: ClassVar[str] = r"""%(complete_func)s() {
    local IFS=$'\n' type value completion
    COMPREPLY=()
    for completion in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="${COMP_WORDS[COMP_CWORD]}" \
            %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value"); [[ $value != *= ]] || compopt -o nospace ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        line, replaced = os.environ["COMP_LINE"], os.environ["COMP_WORD"].lstrip("'\"")
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        kept = incomplete if replaced == "=" else incomplete.removesuffix(replaced)
        self._kept = kept.partition("=")[2] if kept.startswith("-") else kept
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{str(item.value).removeprefix(self._kept)}"


@add_completion_class
class Zsh(ZshComplete):
    """Completion for zsh; zsh adds no space after a completed key, because a value follows."""

    source_template: ClassVar[str] = ZshComplete.source_template.replace(
        "_describe -V unsorted completions_with_descriptions -U\n",
        """local -a keys=(${(M)completions_with_descriptions:#*=:*})
        completions_with_descriptions=(${completions_with_descriptions:#*=:*})
        (( ! $#completions_with_descriptions )) || _describe -V unsorted completions_with_descriptions -U
        (( ! $#keys )) || _describe -V unsorted keys -U -S ''
""",
    )
