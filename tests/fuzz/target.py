"""What a target is, and what its cases share: commands in this process, and damaged bytes, values and text."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from click import ClickException
from click.testing import CliRunner

from synthpipe.cli import main

Case = TypeVar("Case")
Item = TypeVar("Item")
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class WrongError(AssertionError):
    """A result that is not the right one came without a word."""


class Step(Protocol):
    """Tells the judge which part of a case begins; each part may take the time limit."""

    def __call__(self, name: str, times: int = 1) -> None: ...


class Place(Protocol):
    """Where a worker tries its cases.

    Attributes
    ----------
    case : Path
        The one folder that a case may write into.
    elsewhere : Path
        A case may read it, but never write into it.
    canary : Path
        Nothing may open it.
    """

    case: Path
    elsewhere: Path
    canary: Path


class Target(Protocol[Case]):
    """One kind of case; made once in each worker, where `cache` holds what is made once for all of them."""

    def __init__(self, cache: Path, place: Place, step: Step) -> None: ...

    def make(self, rng: np.random.Generator) -> Case:
        """Return a case; equal random numbers give equal cases."""

    def show(self, case: Case, folder: Path) -> str:
        """Return all of a case as text; what is no text is written into a folder, and named."""

    def run(self, case: Case) -> bool:
        """Try a case: True where it is accepted, False or a `SynthpipeError` where it is refused.

        Raises
        ------
        WrongError
            It is accepted, and the result is wrong.
        """


def case_rng(seed: int, target: str, number: int) -> np.random.Generator:
    """Return the random numbers of one case."""
    return np.random.default_rng([seed, zlib.crc32(target.encode()), number])


class Unforeseen(Exception):  # noqa: N818 - it is what it is caused by
    """A command said that something is a fault of synthpipe; the cause is the error."""


def command(*arguments: str | Path) -> str | None:
    """Run a command in this process; return what it prints, or None where it refuses.

    Raises
    ------
    Unforeseen
        It met an error that it does not foresee.
    WrongError
        What it says steers a terminal.
    """
    result = CliRunner().invoke(main, [str(each) for each in arguments], standalone_mode=False)
    error = result.exception
    said = result.output + (error.format_message() if isinstance(error, ClickException) else "")
    if isinstance(error, ClickException):
        if "fault of synthpipe" in error.message:
            raise Unforeseen(" ".join(map(str, arguments))) from error.__cause__
        if is_of_memory(error):
            raise MemoryError(error.message) from error
    elif error is not None:
        raise Unforeseen(" ".join(map(str, arguments))) from error
    if found := STEERING.search(said):
        raise WrongError(f"{arguments[0]} prints {found[0]!r}, which steers a terminal")
    return None if error or (isinstance(result.return_value, int) and result.return_value) else result.stdout


def is_of_memory(error: BaseException | None) -> bool:
    """Whether an error comes from one of memory."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """Return one of some items."""
    return items[int(rng.integers(len(items)))]


EXTREME_NUMBERS = (
    *(
        0,
        -1,
        1,
        2,
        3,
        255,
        256,
        2**31 - 1,
        2**31,
        2**32,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        10**30,
        10**400,
    ),
    *(-(2**63), 0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)
EXTREME_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\x1b[2J",
        "\u202eabc",
        "a" * 5000,
        "../../etc/passwd",
        "/",
        "C:\\",
        "a\nb",
        "=1+1",
        "é",
        "e\u0301",
    ),
    *("\ud800", "null", "true", "NaN", "1", "[1, 0, 0]", "http://forbidden.invalid/x", "%s%n", "{0}", "<b>&", "\ufeff"),
)


def damaged_value(rng: np.random.Generator, value: Any) -> Any:
    """Return a JSON value with something in it replaced, removed, repeated or nested, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = pick(rng, list(value))
        action = rng.integers(10)
        if action == 0:
            return {name: each for name, each in value.items() if name != key}
        if action == 1:
            return {**value, pick(rng, EXTREME_TEXTS): value[key]}
        return {**value, key: damaged_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = int(rng.integers(len(value)))
        action = rng.integers(10)
        if action == 0:
            return value[:place] + value[place + 1 :]
        if action == 1:
            return value[:place] + [value[place]] * int(pick(rng, (2, 3, 1000))) + value[place + 1 :]
        return [*value[:place], damaged_value(rng, value[place]), *value[place + 1 :]]
    return other_value(rng, value)


def other_value(rng: np.random.Generator, value: Any) -> Any:
    """Return another JSON value than `value`, often a close one."""
    action = int(rng.integers(8))
    if action == 0:
        return None
    if action == 1:
        return bool(rng.integers(2))
    if action == 2:
        return pick(rng, EXTREME_TEXTS)
    if action == 3:
        return pick(rng, ([], {}, [[]], {"": None}, [value], {"name": value}, [value, value]))
    if action == 4 and isinstance(value, int | float):
        return pick(rng, (value + 1, value - 1, -value, value * 2, float(value), str(value)))
    if action == 4 and isinstance(value, str):
        return pick(rng, (value + " ", value.upper(), value[:-1], value * 2, value[::-1]))
    if action == 5:
        nested: Any = value
        for _ in range(int(pick(rng, (1, 20, 500)))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return pick(rng, EXTREME_NUMBERS)


def json_bytes(rng: np.random.Generator, value: Any) -> bytes:
    """Return a value as JSON, sometimes as JSON that is broken or nested without end."""
    text = json.dumps(value)
    action = int(rng.integers(40))
    if action == 0:
        depth = int(pick(rng, (2000, 100_000)))
        return (pick(rng, ("[", '{"a":')) * depth).encode()
    if action == 1:
        return text.encode()[: int(rng.integers(len(text)))]
    if action == 2:
        return text.encode("utf-16")
    if action == 3:
        return text.replace("1", "1" * 5000, 1).encode()
    return text.encode()


def damaged_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """Return bytes with some of them flipped, overwritten, cut, repeated or zeroed."""
    found = bytearray(data)
    for _ in range(int(pick(rng, (1, 1, 1, 2, 4, 16)))):
        if not found:
            break
        place, action = int(rng.integers(len(found))), int(rng.integers(8))
        length = int(pick(rng, (1, 2, 4, 8, 64, 4096)))
        if action <= 1:
            found[place] ^= 1 << int(rng.integers(8))
        elif action == 2:
            found[place] = int(pick(rng, (0, 1, 127, 128, 255)))
        elif action == 3:
            number = int(pick(rng, (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)))
            found[place : place + 4] = number.to_bytes(4, "little" if rng.random() < 0.5 else "big")
        elif action == 4:
            del found[place : None if rng.random() < 0.3 else place + length]
        elif action == 5:
            found[place:place] = found[place : place + length]
        elif action == 6:
            end = min(place + length, len(found))
            found[place:end] = bytes(end - place)
        else:
            found[place : place + length] = rng.bytes(length)
    return bytes(found)


def once(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return what `make` makes in the cache, once for all workers and runs."""
    folder = cache / name
    if not folder.exists():
        beside = cache / f"{name}.partial"
        beside.mkdir(parents=True)
        make(beside)
        beside.rename(folder)
    return folder
