"""Search file names with a user's regular expressions, and stop an expression that takes too long."""

from __future__ import annotations

import json
import re
import signal
import subprocess  # nosec B404 # runs only this Python
import sys
from collections.abc import Sequence

from synthpipe.core.display import printable
from synthpipe.core.errors import ConfigError

_LONGEST = 200
_SECONDS = 4
_NAMES_A_SECOND = 10_000
# Python cannot stop a search with a regular expression, but a separate process can be stopped
_SEARCH = """
import json, re, signal, sys
pattern, group, seconds, names = json.load(sys.stdin)
search = re.compile(pattern).search
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(seconds)
for name in names:
    found = search(name)
    print(json.dumps(found[group] or "" if found else ""), flush=True)
"""


def pattern_fault(pattern: str, group: str | None = None) -> str | None:
    """Return the fault of a regular expression, or None if the expression can be used.

    A pattern for labels must have a group with the name `group`. A pattern for slides needs a group; then `group` is
    None.
    """
    if len(pattern) > _LONGEST:
        return f"has {len(pattern)} characters, expected at most {_LONGEST}"
    try:
        compiled = re.compile(pattern)
        if group and group not in compiled.groupindex:
            return f"put (?P<{group}> ) around the part that names the classes, such as '^(?P<{group}>[A-Z]+)-'"
        if compiled.groups < 1:
            return "put ( ) around the part that names the slide or patient, such as '^([^-]+)-'"
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    return None


def find_groups(pattern: str, names: Sequence[str], group: str | None = None) -> list[str]:
    """Return the text that `group`, or the first group, matches in each name. The text is empty without a match.

    Raises
    ------
    ConfigError
        The pattern is invalid, or the search takes too long.
    """
    setting = f"{group or 'group'}_pattern {printable(pattern[:_LONGEST])!r}"
    if fault := pattern_fault(pattern, group):
        raise ConfigError(f"{setting}: {fault}")
    seconds = _SECONDS + len(names) // _NAMES_A_SECOND
    command = [sys.executable, "-I", "-S", "-c", _SEARCH]
    given = json.dumps([pattern, group or 1, seconds, names])
    done = subprocess.run(  # nosec B603 # this Python, and a program of ours
        command, input=given, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False
    )
    found: list[str] = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode == -signal.SIGALRM:
        raise ConfigError(
            f"{setting} takes more than {seconds} s on {len(names)} names, such as "
            f"{names[len(found)][:100]!r}; begin it with ^, write [^-]+ for .*, and "
            "avoid a repeat in a repeat such as (a+)+"
        )
    if done.returncode:
        raise ConfigError(f"{setting}: the search ended with exit code {done.returncode}; check the free memory")
    return found
