"""Encrypt the connections of a cluster by TLS, with the user's PEM files or with new keys for one build."""

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
    """Return the TLS settings of a cluster. If `tls` is None, return None: Dask's own configuration decides."""
    if tls is None:
        return None
    own = {f"tls_{role}_{part}": str(path) for role in _ROLES for part, path in (("cert", tls.cert), ("key", tls.key))}
    return Security(tls_ca_file=str(tls.ca), require_encryption=True, **own)


@contextmanager
def made_keys(folder: Path) -> Iterator[Tls]:
    """Make a key with a self-signed certificate, and remove both when the block ends.

    Only this user can read the files. If a build is killed, the next build removes its keys with other half-written
    files.

    Raises
    ------
    StoreError
        The files cannot be written.
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
