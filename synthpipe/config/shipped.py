"""The settings files that come with synthpipe, by folder and name."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "pipelines"
"""Folder of the pipeline files: `pipelines/` of the project."""


def shipped_names(folder: Path = SHIPPED) -> list[str]:
    """Return the names of the shipped files in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def shipped_file(name: str, folder: Path = SHIPPED) -> Path | None:
    """Return the shipped file of this name, or None if the name is a path, an existing file or unknown."""
    path = Path(name)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return None
    return folder / f"{name}.yaml" if name in shipped_names(folder) else None
