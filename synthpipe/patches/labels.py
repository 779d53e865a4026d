"""Label sets as text: digits in brackets at the end of a file name, and class names joined by ``+``.

Every function raises `CatalogError` with the bare fault; `layouts` puts the patch before it and the cure behind it.
"""

from __future__ import annotations

import difflib
import re

from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import BETWEEN_NAMES, Taxonomy

_LABEL = re.compile(r"\[(?:[\s,]*[01]){2,}[\s,]*\]")
_LONGEST_NAME = 100  # that is compared
_NEAR = 0.75  # of difflib's ratio
_BETWEEN_NAMES = re.compile(f"[{BETWEEN_NAMES}]")


def parse_bracket(text: str, count: int) -> tuple[int, ...]:
    """Return the classes that the label in brackets at the end of `text` holds.

    The label has a digit for each class, in index order: 1 where the class occurs, 0 where it does not. Blanks and
    commas may stand between the digits in any mix: ``[1, 1, 0]``, ``[1 0 0 1]`` and ``[1001]`` are the published
    spellings (method section 1).

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
        There is no such label or more than one, or it does not say for each class whether it occurs.
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
    """Return the names that `text` joins by ``+``, ``;`` or ``|``, whatever they are."""
    return tuple(name for part in _BETWEEN_NAMES.split(text) if (name := part.strip()))


def parse_names(text: str, taxonomy: Taxonomy) -> tuple[int, ...]:
    """Return the classes that `text` names: one name or alias, or several joined by ``+``, ``;`` or ``|``.

    Parameters
    ----------
    text : str
        A folder's name or a table's cell, such as ``tumour+stroma``.
    taxonomy : Taxonomy
        The classes that there are.

    Returns
    -------
    tuple of int
        Class indices in ascending order, at least one.

    Raises
    ------
    CatalogError
        It is empty, names something that is no class, or names a class twice.
    """
    if not text.strip():
        raise CatalogError(f"the label is empty, expected {_choices(taxonomy)}")
    classes: list[int] = []
    for part in _BETWEEN_NAMES.split(text):
        name = part.strip()
        if not name:
            raise CatalogError(f"label {text!r} has an empty place between its class names")
        try:
            index = taxonomy.index(name)
        except KeyError:
            told = f"label names {name!r}, which is no class{_meant(name, taxonomy)}, expected {_choices(taxonomy)}"
            raise CatalogError(told) from None
        if index in classes:
            raise CatalogError(f"label {text!r} names the class {taxonomy.names[index]!r} twice")
        classes.append(index)
    return tuple(sorted(classes))


def parse_cell(text: str, taxonomy: Taxonomy) -> tuple[int, ...]:
    """Return the classes that a table's cell holds: digits in brackets, or class names.

    Raises
    ------
    CatalogError
        As `parse_bracket` where the cell begins with a bracket, which must be all of it; else as `parse_names`.
    """
    cell = text.strip()
    if not cell.startswith("["):
        return parse_names(cell, taxonomy)
    if extra := cell[: cell.rfind("[")]:
        raise CatalogError(f"{extra!r} stands before the label {cell[len(extra) :]!r}, expected the label alone")
    return parse_bracket(cell, len(taxonomy))


def _digits(word: str) -> str:
    """Return `word` if it is made of 0 and 1; ``[1001]`` is one word, ``[1, 0]`` two."""
    wrong = word.strip("01")
    if not wrong:
        return word
    # In a run of digits the wrong one is a digit; anything else (-1, 1.0, True) is wrong as a whole.
    culprit = next(digit for digit in word if digit not in "01") if word.isascii() and word.isdigit() else word
    raise CatalogError(f"label holds {culprit!r}, which is neither 0 nor 1")


def _example(count: int) -> str:
    return str([1] + [0] * (count - 1))


def _meant(name: str, taxonomy: Taxonomy) -> str:
    """Return a clause with the class name that is nearest, apart from case, blanks and other signs."""
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
