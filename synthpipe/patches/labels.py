"""Label sets as text: digits in brackets at the end of a file name, and class names joined by ``+``.

Errors name only the fault. `layouts` adds the name of the patch, and advice.
"""

from __future__ import annotations

import difflib
import re

from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import BETWEEN_NAMES, Taxonomy

_LABEL = re.compile(r"\[(?:[\s,]*[01]){2,}[\s,]*\]")
_LONGEST_NAME = 100  # characters of a name that are compared
_NEAR = 0.75  # difflib's ratio of similar names
_BETWEEN_NAMES = re.compile(f"[{BETWEEN_NAMES}]")


def parse_bracket(text: str, count: int) -> tuple[int, ...]:
    """Return the classes in the label in brackets at the end of `text`.

    The label has a digit for each class, in index order: 1 if it occurs, else 0. Blanks and commas may separate
    the digits. The published data sets have ``[1, 1, 0]``, ``[1 0 0 1]`` and ``[1001]`` (method section 1).

    Parameters
    ----------
    text : str
        A file's stem, such as ``1003370-11223-11698-[1, 1, 0]``.
    count : int
        The number of classes.

    Returns
    -------
    tuple of int
        Class indices in ascending order, at least one.

    Raises
    ------
    CatalogError
        The text has no label or several labels, or the label does not have one digit for each class.
    """
    start = text.rfind("[")
    if start < 0:
        raise CatalogError(f"the name has no label in brackets, expected one such as {_example(count)} at its end")
    if other := _LABEL.search(text, 0, start):
        raise CatalogError(f"there are two labels, {other[0]!r} and {text[start:]!r}, expected one")
    end = text.find("]", start)
    if end < 0:
        raise CatalogError(f"the bracket of the label {text[start:]!r} is not closed")
    label, rest = text[start : end + 1], text[end + 1 :]
    if rest:
        raise CatalogError(f"the label {label!r} is not at the end of the name: {rest!r} follows it")
    digits = "".join(_digits(word) for word in label[1:-1].replace(",", " ").split())
    if not digits:
        raise CatalogError(f"the label {label!r} is empty, expected {count} digits, one for each class")
    if len(digits) != count:
        found = "1 digit" if len(digits) == 1 else f"{len(digits)} digits"
        raise CatalogError(f"label {label!r} holds {found}, expected {count}, one for each class")
    if "1" not in digits:
        raise CatalogError(f"label {label!r} holds zeros only, expected a 1 for each class that occurs")
    return tuple(index for index, digit in enumerate(digits) if digit == "1")


def split_names(text: str) -> tuple[str, ...]:
    """Split `text` at each ``+``, ``;`` or ``|`` into names. A name need not be a class."""
    return tuple(name for part in _BETWEEN_NAMES.split(text) if (name := part.strip()))


def parse_names(text: str, taxonomy: Taxonomy) -> tuple[int, ...]:
    """Return the classes that `text` names: one name or alias, or several separated by ``+``, ``;`` or ``|``.

    Parameters
    ----------
    text : str
        A folder's name or a table's cell, such as ``tumour+stroma``.
    taxonomy : Taxonomy
        The known classes.

    Returns
    -------
    tuple of int
        Class indices in ascending order, at least one.

    Raises
    ------
    CatalogError
        `text` is empty, has a name that is not a class, or names a class twice.
    """
    if not text.strip():
        raise CatalogError(f"the label is empty, expected {_choices(taxonomy)}")
    classes: list[int] = []
    for part in _BETWEEN_NAMES.split(text):
        name = part.strip()
        if not name:
            raise CatalogError(f"label {text!r} has an empty class name beside a separator (+, ; or |)")
        try:
            index = taxonomy.index(name)
        except KeyError:
            fault = f"label names {name!r}, which is not a class{_suggestion(name, taxonomy)}"
            raise CatalogError(f"{fault}, expected {_choices(taxonomy)}") from None
        if index in classes:
            raise CatalogError(f"label {text!r} names the class {taxonomy.names[index]!r} twice")
        classes.append(index)
    return tuple(sorted(classes))


def parse_cell(text: str, taxonomy: Taxonomy) -> tuple[int, ...]:
    """Return the classes in a table's cell, which holds digits in brackets or class names.

    Raises
    ------
    CatalogError
        The cell begins with a bracket, and `parse_bracket` raises an error, or something else is in the cell. Or the
        cell does not begin with a bracket, and `parse_names` raises an error.
    """
    cell = text.strip()
    if not cell.startswith("["):
        return parse_names(cell, taxonomy)
    if extra := cell[: cell.rfind("[")]:
        raise CatalogError(f"{extra!r} comes before the label {cell[len(extra) :]!r}, expected only the label")
    return parse_bracket(cell, len(taxonomy))


def _digits(word: str) -> str:
    """Return `word` if it has only the digits 0 and 1. ``[1001]`` has one word, and ``[1, 0]`` has two."""
    wrong = word.strip("01")
    if not wrong:
        return word
    # name the wrong digit if there are only digits; otherwise name the whole word, such as -1, 1.0 or True
    culprit = next(digit for digit in word if digit not in "01") if word.isascii() and word.isdigit() else word
    raise CatalogError(f"label holds {culprit!r}, which is neither 0 nor 1")


def _example(count: int) -> str:
    return str([1] + [0] * (count - 1))


def _suggestion(name: str, taxonomy: Taxonomy) -> str:
    """Return a clause with the most similar class name. Case, blanks and punctuation are ignored."""
    known = {_plain(each): each for tissue in taxonomy.classes for each in (tissue.name, *tissue.aliases)}
    close = difflib.get_close_matches(_plain(name)[:_LONGEST_NAME], known, 1, _NEAR)
    return f" (did you mean {known[close[0]]!r}?)" if close else ""


def _plain(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum())


def _choices(taxonomy: Taxonomy) -> str:
    return ", ".join(
        f"{tissue.name} (or {', '.join(tissue.aliases)})" if tissue.aliases else tissue.name
        for tissue in taxonomy.classes
    )
