"""Find packages that are missing, and name the command that installs them."""

from __future__ import annotations

import importlib.util

from synthpipe.core.errors import MissingPackageError

TORCH = ("huggingface-hub", "safetensors", "timm", "torch", "torchmetrics", "torchvision")
"""Packages that the filter and the segmentation stage need. `requirements/render.txt` leaves these out."""

TRAIN = ("lightning", "matplotlib", "segmentation-models-pytorch", "tensorboard")
"""More packages that the segmentation stage needs (the extra ``train``)."""

GPU = ("numba-cuda",)
"""More packages that rendering on a GPU needs (the extra ``gpu``)."""


def absent(*packages: str) -> list[str]:
    """Return the packages that are not installed. Nothing is imported."""
    return [package for package in packages if not _is_found(package)]


def require(what: str, *packages: str) -> None:
    """Check that packages are installed.

    Parameters
    ----------
    what : str
        The feature that needs the packages; the message begins with this text.
    packages : str
        Names of packages, as pip knows them.

    Raises
    ------
    MissingPackageError
        The message names the missing packages and the command that installs them.
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
    """Return a message about missing packages, with the command that installs them."""
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{what} needs {', '.join(missing)}, which {verb} not installed; install with: pip install {' '.join(missing)}"
    )


def _is_found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package.replace("-", "_")) is not None
    except ImportError:
        return False
