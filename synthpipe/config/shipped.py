"""The location of the pipeline files that come with synthpipe."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "pipelines"
"""Folder of the pipeline files: `pipelines/` of the project."""
