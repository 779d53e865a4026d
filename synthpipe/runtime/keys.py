"""TLS between the parts of a cluster: settings from PEM files, and new files for the jobs of one build."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from distributed import Security

from synthpipe.files.locations import translate_errors
from synthpipe.files.writing import PARTIAL
from synthpipe.runtime.settings import Tls

_ROLES = ("scheduler", "worker", "client")


def security(tls: Tls | None) -> Security | None:
    """Return TLS settings for all parts of the cluster; None leaves them to Dask's own configuration."""
    if tls is None:
        return None
    own = {f"tls_{role}_{part}": str(path) for role in _ROLES for part, path in (("cert", tls.cert), ("key", tls.key))}
    return Security(tls_ca_file=str(tls.ca), require_encryption=True, **own)


@contextmanager
def made_keys(folder: Path) -> Iterator[Tls]:
    """Make a key and its certificate, which is its own authority, and remove both when the block ends.

    Only this user can read the files. Those that a killed build leaves in its run are swept
    with other files that it was writing.

    Raises
    ------
    StoreError
        They cannot be written.
    """
    made = Security.temporary()
    paths: list[Path] = []
    try:
        with translate_errors(folder, "the keys of the jobs cannot be written"):
            for content in (made.tls_ca_file, made.tls_worker_key):
                path = folder.absolute() / f".key.{uuid4().hex}{PARTIAL}"
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    paths.append(path)
                    file.write(content)
        certificate, key = paths
        yield Tls(certificate, certificate, key)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
