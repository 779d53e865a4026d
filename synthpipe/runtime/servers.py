"""Dask's scheduler and workers without their web server, which shows tasks and paths to everyone."""

from __future__ import annotations

from typing import Any

import distributed


class Scheduler(distributed.Scheduler):  # type: ignore[misc]
    """A scheduler that listens only to members of its cluster."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start no web server."""


class Worker(distributed.Worker):  # type: ignore[misc]
    """A worker that listens only to members of its cluster."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Start no web server."""
