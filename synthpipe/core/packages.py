"""Packages that only some commands need: which of them are missing, and the command that installs them."""

from __future__ import annotations

import importlib.util

from synthpipe.core.errors import MissingPackageError

TORCH = ("huggingface-hub", "safetensors", "timm", "torch", "torchmetrics", "torchvision")
"""What the filter and the segmentation stage need, and rendering does not; `requirements/render.txt` leaves it out."""

TRAIN = ("lightning", "matplotlib", "segmentation-models-pytorch", "tensorboard")
"""What the segmentation stage needs besides: the extra ``train``."""

GPU = ("numba-cuda",)
"""What rendering on a GPU needs besides: the extra ``gpu``."""


def absent(*packages: str) -> list[str]:
    """Return those packages that cannot be found, without importing any."""
    return [package for package in packages if not _is_found(package)]


def require(what: str, *packages: str) -> None:
    """Check that packages are installed.

    Parameters
    ----------
    what : str
        What needs them, as the message begins.
    packages : str
        Their names, as pip knows them.

    Raises
    ------
    MissingPackageError
        The message names those that are missing, and the command that installs them.
    """
    if missing := absent(*packages):
        raise MissingPackageError(needs(what, missing))


def require_filter() -> None:
    """Check that the filter can be trained and used.

    Raises
    ------
    MissingPackageError
        The message names the missing packages and the way to build without a filter.
    """
    if missing := absent(*TORCH):
        raise MissingPackageError(f"{needs('the filter', missing)}; or build without it: --set filter.enabled=false")


def needs(what: str, missing: list[str]) -> str:
    """Say that something needs packages that are not installed, and the command that installs them."""
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{what} needs {', '.join(missing)}, which {verb} not installed; install with: pip install {' '.join(missing)}"
    )


def _is_found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    except ImportError:
        return False
