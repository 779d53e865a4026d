"""Explain errors from Dask's own settings, which a site sets in files and environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from synthpipe.core.errors import ClusterError, ConfigError, SynthpipeError

try:
    import dask
    import distributed  # noqa: F401  # reads settings too
except (KeyError, TypeError, ValueError) as error:
    raise ConfigError(
        f"Dask cannot read its settings: {' '.join(str(error).split())}; correct or remove that file or variable (Dask "
        "reads /etc/dask, ~/.config/dask, the folder DASK_CONFIG, and variables that begin with DASK_)"
    ) from error

_SUSPECTS = (
    *(f"distributed.{part}.preload" for part in ("worker", "nanny", "scheduler", "client")),
    "distributed.comm.require-encryption",
)


@contextmanager
def starting(what: str, cure: str = "") -> Iterator[None]:
    """Turn Dask's exceptions in the block into a `ClusterError` with the first cause and suspect settings.

    Parameters
    ----------
    what : str
        The problem, such as ``this process cannot connect to its own workers``.
    cure : str
        Advice, if there is any.

    Raises
    ------
    ClusterError
        The message has the problem, its first cause, the advice and the settings that `suspects` returns.
    """
    try:
        yield
    except SynthpipeError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise ClusterError("; ".join(filter(None, (f"{what}: {reason}", cure, suspects())))) from error


def suspects() -> str:
    """Return a text that lists the site's Dask settings that can prevent the start of a cluster, with their files.

    The text is empty if no such setting is set.
    """
    found = []
    for key in _SUSPECTS:
        if value := dask.config.get(key, None):
            files = [str(path) for path in dask.config.paths_containing_key(key)]
            variable = f"DASK_{key.replace('.', '__').replace('-', '_').upper()}"
            where = " and ".join([*files, *([variable] if variable in os.environ else [])])
            found.append(f"{key} is {value!r}" + (f" (set in {where})" if where else ""))
    return f"Dask's settings may be the cause: {', '.join(found)}" if found else ""
