"""Label names and cells: what is accepted has exactly one label, which is the whole cell, and has its classes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.patches.labels import parse_bracket, parse_cell, parse_names
from tests.fuzz.target import Place, Step, WrongError, pick

TAXONOMY = Taxonomy(
    (
        TissueClass("tumour", (0, 64, 128), ("TUM", "tumor")),
        TissueClass("stroma", (64, 128, 0), ("1",)),
        TissueClass("lymphocytic infiltrate", (243, 152, 0)),
        TissueClass("necrosis", (1, 2, 3), ("N.", "[0]")),
    )
)
PARSERS = ("bracket", "cell", "names")
_CLASS_OF = {
    name.casefold(): number for number, each in enumerate(TAXONOMY.classes) for name in (each.name, *each.aliases)
}
_LABEL = re.compile(r"\[[\s,]*([01](?:[\s,]*[01])*)[\s,]*\]")
_NOISE = (
    *("", " ", ",", "[", "]", "+", ";", "|", "0", "1", "2", "-", "-1", "1.0", "True", ".png", "[1, 0]", "[0, 1, 0, 0]"),
    *(
        "\0",
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u200b",
        "\ufeff",
        "\u202e",
        "\uff11",
        "\u0660",
        "e\u0301",
        "\ud800",
        "\x1b[2J",
        '"',
    ),
    *("'", "=1+1", "null", "tumour", "TUM", "N.", "stroma ", "Stroma", "((", "]]", "[[", "[]", "[,]", "lymphocytic"),
)


@dataclass(frozen=True)
class Text:
    """A text for one of the parsers; `sound` has the classes that a text without a fault has."""

    parser: str
    count: int
    text: str
    sound: tuple[int, ...] | None


def expected(case: Text) -> tuple[int, ...] | None:
    """Return the classes that a text has by the strictest reading, or None where it has no label."""
    if case.parser == "names" or (case.parser == "cell" and not case.text.strip().startswith("[")):
        return _named(case.text)
    text = case.text.strip() if case.parser == "cell" else case.text
    # a single digit, as of slide[1], is no label: there are at least two classes
    found = [each for each in _LABEL.finditer(text) if sum(digit in "01" for digit in each[1]) > 1]
    if len(found) != 1 or found[0].end() != len(text) or (case.parser == "cell" and found[0].start()):
        return None
    digits = [each for each in found[0][1] if each in "01"]
    classes = tuple(number for number, digit in enumerate(digits) if digit == "1")
    return classes if len(digits) == case.count and classes else None


def _named(text: str) -> tuple[int, ...] | None:
    names = [name.strip().casefold() for name in text.replace(";", "+").replace("|", "+").split("+")]
    if any(name not in _CLASS_OF for name in names):
        return None
    classes = sorted(_CLASS_OF[name] for name in names)
    return tuple(classes) if len(set(classes)) == len(classes) else None


def damaged_label(rng: np.random.Generator) -> Text:
    """Return a label by the published grammar, damaged more often than not."""
    parser, count = pick(rng, PARSERS), int(rng.integers(2, 6))
    count = len(TAXONOMY) if parser == "cell" else count
    if parser == "bracket" or (parser == "cell" and rng.random() < 0.5):
        digits = rng.integers(0, 2, count)
        digits[rng.integers(count)] = 1
        separator = pick(rng, (", ", ",", " ", ""))
        text = "[" + separator.join(map(str, digits.tolist())) + "]"
        text = (
            pick(rng, ("1003370-11223-11698-", "TCGA-A1-A0SK-xmin1", "", "a b ", "é")) + text
            if parser == "bracket"
            else text
        )
        sound = tuple(np.flatnonzero(digits).tolist())
    else:
        classes = rng.permutation(len(TAXONOMY))[: rng.integers(1, 4)].tolist()
        names = [pick(rng, (each.name, *each.aliases)) for each in (TAXONOMY.classes[number] for number in classes)]
        names[0] = TAXONOMY.names[classes[0]]  # an alias in brackets alone would be a bracket
        text, sound = pick(rng, ("+", ";", "|", " + ")).join(names), tuple(sorted(classes))
    if rng.random() < 0.2:
        return Text(parser, count, text, sound)
    for _ in range(int(rng.integers(1, 4))):
        place, action = int(rng.integers(len(text) + 1)), int(rng.integers(5))
        if action <= 2:
            text = text[:place] + pick(rng, _NOISE) + text[place:]
        elif action == 3:
            text = text[:place] + text[place + int(rng.integers(1, 4)) :]
        else:
            text = text[:place] + text[place : place + 8] * 2 + text[place + 8 :]
    return Text(parser, count, text * int(rng.integers(1, 2000)) if rng.random() < 0.001 else text, None)


class Labels:
    """See the module."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None:
        pass

    make = staticmethod(damaged_label)

    def show(self, case: Text, folder: Path) -> str:
        return repr(case)

    def run(self, case: Text) -> bool:
        return self.check(case)

    @staticmethod
    def check(case: Text) -> bool:
        """Read a text, and compare what it gives with `expected`; see `Target.run`."""
        try:
            if case.parser == "bracket":
                found = parse_bracket(case.text, case.count)
            else:
                found = (parse_cell if case.parser == "cell" else parse_names)(case.text, TAXONOMY)
        except CatalogError:
            if case.sound is not None:
                raise WrongError(f"a sound label of {case.parser} is refused") from None
            return False
        if found != (right := expected(case)):
            what = "no label" if right is None else "other classes"
            raise WrongError(f"parse_{case.parser} accepts what has {what}")
        return True
