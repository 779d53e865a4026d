"""Python and packages; nothing is imported for it but `packaging`, since any other may be missing."""

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
from synthpipe.doctor.finding import Finding

_SAME_BYTES = {"opencv-python-headless": SpecifierSet("<5")}  # newer ones warp to other bytes, and more slowly


def python() -> Finding:
    """Look at the interpreter."""
    found = f"{platform.python_version()} at {sys.executable}"
    if _version("synthpipe") is None:
        cure = "pip install . in its folder"
        return Finding("Python", "wrong", f"{found}; synthpipe is not installed, only its files are found", cure)
    wanted = metadata.metadata("synthpipe")["Requires-Python"]
    if platform.python_version() in SpecifierSet(wanted):
        return Finding("Python", "fine", found)
    return Finding("Python", "wrong", found, f"synthpipe needs {wanted}: make an environment of such a Python")


def packages() -> Iterator[Finding]:
    """Look at the packages that synthpipe needs: their versions, and whether they can be imported."""
    needed = [each for each in _requirements() if _applies(each, "") and not (_renders_only() and each.name in TORCH)]
    problems = [(each, problem) for each in needed if (problem := _problem(each))]
    for requirement, problem in problems:
        yield Finding("package", "wrong", problem, _install([requirement]))
    if needed and not problems:
        yield Finding("packages", "fine", f"all {len(needed)}, synthpipe {metadata.version('synthpipe')}")
    for name, wanted in _SAME_BYTES.items():
        if (found := _version(name)) and found not in wanted:
            yield Finding(
                "package", "note", f"{name} {found} makes other bytes than {wanted}", f"pip install '{name}{wanted}'"
            )
    for module in ("cv2", "numba", "zarr"):
        try:
            importlib.import_module(module)
        except Exception as error:  # old packages raise more than ImportError
            yield Finding("package", "wrong", f"{module} cannot be imported: {error}", "install it, or what it names")


def extras() -> Iterator[Finding]:
    """Look at the packages that only a part of the commands needs."""
    if _version("synthpipe") is None:
        return
    if _renders_only():
        cure = f"{_install(each for each in _requirements() if each.name in TORCH)} for the filter and for training"
        yield Finding("filter", "note", "torch is not installed: builds work with filter.enabled=false only", cure)
    names = [name for name in metadata.metadata("synthpipe").get_all("Provides-Extra") or () if name != "test"]
    for name in names:
        needed = [each for each in _requirements() if _applies(each, name) and not _applies(each, "")]
        missing = [problem for each in needed if (problem := _problem(each))]
        if missing:
            cure = f"{_install(each for each in needed if _problem(each))} if you need it"
            yield Finding(f"extra {name}", "note", "; ".join(missing), cure)
        else:
            yield Finding(f"extra {name}", "fine", ", ".join(each.name for each in needed))


def _renders_only() -> bool:
    """Whether this is an environment for rendering, as of `requirements/render.txt`."""
    return bool(absent("torch"))


def _install(requirements: Iterable[Requirement]) -> str:
    # names packages, not extras: there is no release, and a wheel has no folder that an extra could be installed from
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
    """Say what is wrong with the package that is there; None where nothing is."""
    found = _version(requirement.name)
    if found is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} is {found}, expected {requirement.specifier}"
    return None
