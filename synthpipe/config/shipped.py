"""The settings files that come with synthpipe."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "pipelines"
"""The folder of the settings files, `pipelines/` of the project."""
