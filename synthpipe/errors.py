"""The exceptions that synthpipe raises for bad input and bad state.

Each is also a builtin, so that library users can catch what they expect. Only the command line turns them into
one line and an exit code; every message says what was found, what was expected and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synthpipe.display import without_secrets

_SIGNS_OF_FULL_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # the driver: contexts, page-locked memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class SynthpipeError(Exception):
    """Anything that synthpipe can explain to its user; messages never hold the credentials of a URL."""

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(message))


class ConfigError(SynthpipeError, ValueError):
    """A pipeline file, or an option that overrides it, is wrong."""


class CatalogError(SynthpipeError, ValueError):
    """The patches on disk do not form a usable data set."""


class StoreError(SynthpipeError, OSError):
    """A run or a Zarr store is missing, damaged, or cannot be written."""


class StaleRunError(SynthpipeError, RuntimeError):
    """A run directory was made by another pipeline, other patches or other package versions."""


class FilterError(SynthpipeError, RuntimeError):
    """The filter model cannot be trained, or accepts too few composites."""


class ClusterError(SynthpipeError, RuntimeError):
    """There is no cluster to work on, its workers are not fit for the build, or it was lost."""


class MissingPackageError(SynthpipeError, ImportError):
    """A package of an extra is not installed."""


def explain(error: ValueError) -> str:
    """Say in a line what is wrong with data; of a pydantic model's, what the first value is and what would fit."""
    errors: Any = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "it"
    if first["type"] == "missing":
        return f"{key} is missing"
    found = repr(first["input"])
    found = found if len(found) <= 80 else f"{found[:77]}..."
    return f"{key} is {found}; {first['msg'][0].lower()}{first['msg'][1:]}"


_LISTED = 3
_KINDS = 10


def first_of(names: Sequence[str]) -> str:
    """Return the first three of some names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def each_kind_once(problems: Iterable[tuple[Path, str]]) -> str:
    """Return a line for each kind of problem: the first file that has it, and the names of the next ones.

    Problems are of one kind where they differ by numbers alone.
    """
    kinds: dict[str, list[tuple[Path, str]]] = {}
    for path, reason in problems:
        kinds.setdefault(re.sub(r"\d+", "0", reason), []).append((path, reason))
    lines = []
    for (path, reason), *others in kinds.values():
        more = first_of([other.name for other, _ in others])
        lines.append(f"{path}: {reason}" + (f"; the same for {len(others)} more: {more}" if others else ""))
    if len(lines) > _KINDS:
        lines[_KINDS:] = [f"and {len(lines) - _KINDS} more kinds of problems"]
    return "\n  ".join(lines)


def is_of_memory(error: BaseException) -> bool:
    """Whether memory was full, a GPU's or a CPU's; libraries of GPUs have no error of one kind for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's allocator, named since loading torch takes seconds
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_FULL_MEMORY))
    )
