"""Read the YAML of settings files: scalars as in YAML 1.2, and a limited number of values."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_BYTES = 256 << 10
MOST_VALUES = 10_000
DEEPEST = 16

_MEANINGS = {
    "character '\\t'": "a tab begins a value or indents the line; write blanks",
    "that cannot start any token": "text cannot begin with @, ` or %; put it in quotes",
    "mapping values are not allowed": "a second ': ' in the line, or a wrong indent; put text with ': ' in quotes",
    "parsing a flow sequence": "the list that begins with [ needs a comma, or a ] at its end, before this",
    "parsing a flow mapping": "the mapping that begins with { needs a comma, or a } at its end, before this",
    "unexpected end of stream": "a quote is open to the end of the file; close it",
    "unknown escape character": "a backslash in double quotes has a special meaning; write single quotes",
    "expected <block end>": "does not fit the lines above; begin all lines of a section in one column",
    "could not find expected ':'": "expected a key, a colon and a blank, as in seed: 1",
    "undefined alias": "text that begins with * refers to an & above; put it in quotes",
    "expected a single document": "a second document begins here; remove the line ---",
    "scanning a block scalar": "text that begins with | or > continues in the next lines; put it in quotes",
}
"""Explanations of PyYAML's errors, by words that the errors contain."""
_TAG = "tag:yaml.org,2002:"
_UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def parse(text: str) -> Any:
    """Read one YAML document: dicts with text keys, lists, text, whole numbers, floats, booleans and None.

    Text without quotes is a number, a boolean or null as in YAML 1.2's core schema, unless YAML 1.1 gives it another
    value. So ``010``, ``1:30``, ``1_000``, ``no`` and ``2001-01-01`` are text. Merge keys (``<<``) work as in 1.1.

    Raises
    ------
    ValueError
        The text is not YAML, has a key twice, a key that is not text or a tag (``!!int``), or exceeds the limits.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"has {len(text)} characters, expected at most {MOST_BYTES}")
    text = text.replace("\r\n", "\n")
    check_characters(text)
    try:
        return yaml.load(text, _Loader)  # nosec B506 # a SafeLoader
    except yaml.MarkedYAMLError as error:
        said = " ".join(part for part in (error.context, error.problem) if part)
        said = next((meaning for words, meaning in _MEANINGS.items() if words in said), said)
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark else said) from error
    except (OverflowError, ValueError) as error:
        if isinstance(error, ValueError) and "chr()" not in str(error):
            raise
        raise ValueError("an escape such as \\UFFFFFFFF is not a character") from error


def check_characters(text: str, line: int = 1) -> None:
    """Refuse control characters, unusual line breaks and lone surrogates in a setting.

    Raises
    ------
    ValueError
        The message names the first such character and its line; `line` is the number of the first line of `text`.
    """
    if found := _UNWANTED.search(text):
        line += text.count("\n", 0, found.start())
        raise ValueError(f"line {line}: holds the character U+{ord(found[0]):04X}; remove it")


# libyaml's loader cannot be used: it recurses without a limit, so deeply nested text ends the process
class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a value, and count all values in it; an alias counts as all values of its anchor."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark, before = event.start_mark, self._count
        if getattr(event, "tag", None) is not None:
            message = f"the tag {event.tag.replace(_TAG, '!!')} is not allowed; remove it, and put text in quotes"
            raise yaml.MarkedYAMLError(None, None, message, mark)
        if self._depth == DEEPEST:
            message = f"is nested too deeply, expected at most {DEEPEST} levels"
            raise yaml.MarkedYAMLError(None, None, message, mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        assert node is not None  # nosec B101 # for mypy: there is an event
        if not isinstance(event, yaml.AliasEvent):
            self._count += 1
            self._sizes[node] = self._count - before
        elif node in self._sizes:
            self._count += self._sizes[node]
        else:
            raise yaml.MarkedYAMLError(None, None, f"*{event.anchor} contains itself", mark)
        if self._count > MOST_VALUES:
            message = f"has more than {MOST_VALUES} values (each alias counts again); shorten it"
            raise yaml.MarkedYAMLError(None, None, message, mark)
        return node


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    check_characters(node.value, node.start_mark.line + 1)
    return str(node.value)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    own = set[str]()
    for key_node, _ in node.value:
        if key_node.tag == f"{_TAG}merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(None, None, f"key {key!r} is not text; put it in quotes", key_node.start_mark)
        if key in own:
            raise yaml.MarkedYAMLError(None, None, f"key {key!r} occurs twice", key_node.start_mark)
        own.add(key)
    loader.flatten_mapping(node)  # merged keys come first, and own keys replace them
    return {
        loader.construct_object(key_node, deep=True): loader.construct_object(value_node, deep=True)
        for key_node, value_node in node.value
    }


# the lengths limit numbers, so that they can be computed and shown; longer ones are text
for _kind, _pattern in {
    "int": r"[-+]?(0|[1-9][0-9]{0,39})|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,32}",
    "float": r"[-+]?(\.[0-9]{1,40}|(0|[1-9][0-9]{0,39})(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,4})?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "bool": "true|True|TRUE|false|False|FALSE",
    "null": "~|null|Null|NULL|",
    "merge": "<<",
}.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z"), None)
_Loader.add_constructor(f"{_TAG}str", _text)
_Loader.add_constructor(f"{_TAG}merge", _text)
_Loader.add_constructor(f"{_TAG}map", _unique_mapping)
