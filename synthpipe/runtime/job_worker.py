"""Run Dask's worker command in a private directory of the node (``python -m synthpipe.runtime.job_worker``).

Dask loads code from its temporary directory. In a shared folder, another user could have made that directory.
"""

from __future__ import annotations

import dask
from distributed.cli.dask_worker import main

from synthpipe.files.scratch import private_directory

if __name__ == "__main__":
    with private_directory() as directory, dask.config.set({"temporary-directory": str(directory)}):
        main()
