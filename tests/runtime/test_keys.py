"""Keys of jobs: private, removed at the end, and swept after a kill."""

from __future__ import annotations

import stat
from pathlib import Path

from synthpipe.files.folders import sweep
from synthpipe.runtime.keys import made_keys


def test_keys_are_private_and_go_with_their_build(tmp_path: Path) -> None:
    with made_keys(tmp_path) as tls:
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tls.ca, tls.cert, tls.key)} == {0o600}
    assert not list(tmp_path.iterdir())


def test_keys_of_a_killed_build_are_swept(tmp_path: Path) -> None:
    with made_keys(tmp_path) as tls:
        sweep(tmp_path)  # as the next build does
        assert not tls.key.exists() and not tls.cert.exists()
