"""``python -m synthpipe.runtime.job_worker``: Dask's command for workers, in a private directory of the node.

Dask's own directory in a shared temporary directory may have been made by another user, and code is loaded from it.
"""

from __future__ import annotations

import dask
from distributed.cli.dask_worker import main

from synthpipe.files.scratch import private_directory

if __name__ == "__main__":
    with private_directory() as directory, dask.config.set({"temporary-directory": str(directory)}):
        main()
