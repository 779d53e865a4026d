"""The exceptions that synthpipe raises for bad input and bad state.

Each is also a builtin, so that library users can catch what they expect. Only the command line turns them into
one line and an exit code; every message says what was found, what was expected and what to do.
"""

from synthpipe.display import without_secrets


class SynthpipeError(Exception):
    """Anything that synthpipe can explain to its user; messages never hold the credentials of a URL."""

    def __init__(self, message: object = "") -> None:
        super().__init__(without_secrets(message))


class ConfigError(SynthpipeError, ValueError):
    """A pipeline file, or an option that overrides it, is wrong."""


class CatalogError(SynthpipeError, ValueError):
    """The patches on disk do not form a usable data set."""


class StoreError(SynthpipeError, OSError):
    """A run or a Zarr store is missing, damaged, or cannot be written."""


class StaleRunError(SynthpipeError, RuntimeError):
    """A run directory was made by another pipeline, other patches or other package versions."""


class FilterError(SynthpipeError, RuntimeError):
    """The filter model cannot be trained, or accepts too few composites."""


class ClusterError(SynthpipeError, RuntimeError):
    """There is no cluster to work on, its workers are not fit for the build, or it was lost."""


class MissingPackageError(SynthpipeError, ImportError):
    """A package of an extra is not installed."""
