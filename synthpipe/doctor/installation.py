"""Check Python and the packages. This module imports only `packaging`, because other packages may be missing."""

from __future__ import annotations

import importlib
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from synthpipe.core.packages import TORCH, absent
from synthpipe.doctor.check_result import CheckResult

# newer versions warp images to other bytes, and more slowly
_SAME_BYTES = {"opencv-python-headless": SpecifierSet("<5")}


def python() -> CheckResult:
    """Check the Python version, and whether synthpipe is installed."""
    found = f"{platform.python_version()} at {sys.executable}"
    if _version("synthpipe") is None:
        cure = "run pip install . in the folder of synthpipe"
        return CheckResult("Python", "wrong", f"{found}; synthpipe is not installed, only its files are here", cure)
    wanted = metadata.metadata("synthpipe")["Requires-Python"]
    if platform.python_version() in SpecifierSet(wanted):
        return CheckResult("Python", "fine", found)
    return CheckResult("Python", "wrong", found, f"make an environment with Python {wanted}")


def packages() -> Iterator[CheckResult]:
    """Check the versions of the required packages, and whether they can be imported."""
    needed = [each for each in _requirements() if _applies(each, "") and not (_renders_only() and each.name in TORCH)]
    problems = [(each, problem) for each in needed if (problem := _problem(each))]
    for requirement, problem in problems:
        yield CheckResult("package", "wrong", problem, _install([requirement]))
    if needed and not problems:
        yield CheckResult("packages", "fine", f"all {len(needed)}, synthpipe {metadata.version('synthpipe')}")
    for name, wanted in _SAME_BYTES.items():
        if (found := _version(name)) and found not in wanted:
            yield CheckResult(
                "package", "note", f"{name} {found} renders other bytes than {wanted}", f"pip install '{name}{wanted}'"
            )
    for module in ("cv2", "numba", "zarr"):
        try:
            importlib.import_module(module)
        except Exception as error:  # old packages raise more than ImportError
            yield CheckResult(
                "package",
                "wrong",
                f"{module} cannot be imported: {error}",
                "install this package, or the package that the error names",
            )


def extras() -> Iterator[CheckResult]:
    """Check the packages that only some commands need."""
    if _version("synthpipe") is None:
        return
    if _renders_only():
        cure = f"{_install(each for each in _requirements() if each.name in TORCH)} for the filter and for training"
        yield CheckResult("filter", "note", "torch is not installed: builds work only with filter.enabled=false", cure)
    names = [name for name in metadata.metadata("synthpipe").get_all("Provides-Extra") or () if name != "test"]
    for name in names:
        needed = [each for each in _requirements() if _applies(each, name) and not _applies(each, "")]
        missing = [problem for each in needed if (problem := _problem(each))]
        if missing:
            cure = f"{_install(each for each in needed if _problem(each))} if you need it"
            yield CheckResult(f"extra {name}", "note", "; ".join(missing), cure)
        else:
            yield CheckResult(f"extra {name}", "fine", ", ".join(each.name for each in needed))


def _renders_only() -> bool:
    """Return whether this environment can only render, because torch is missing (`requirements/render.txt`)."""
    return bool(absent("torch"))


def _install(requirements: Iterable[Requirement]) -> str:
    # packages, not extras: synthpipe has no release, so pip can install extras only from its folder
    named = (f"{each.name}{each.specifier}" for each in requirements)
    return f"pip install {' '.join(map(shlex.quote, named))}"


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires("synthpipe") or ()] if _version("synthpipe") else []


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _problem(requirement: Requirement) -> str | None:
    """Return the problem of a required package, or None if its version fits."""
    found = _version(requirement.name)
    if found is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} is {found}, expected {requirement.specifier}"
    return None
