"""Dask's scheduler and workers without their web server, which tells anyone who asks of tasks and paths."""

from __future__ import annotations

from typing import Any

import distributed


class Scheduler(distributed.Scheduler):  # type: ignore[misc]
    """A scheduler that listens to members of its cluster only."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start none."""


class Worker(distributed.Worker):  # type: ignore[misc]
    """A worker that listens to members of its cluster only."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start none."""
