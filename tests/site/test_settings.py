"""Settings of Dask that a site makes, and schedulers that it starts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dask
import pytest

from synthpipe.core.errors import ClusterError
from synthpipe.runtime import ClusterSettings, Demand, ExistingCluster, Local
from synthpipe.runtime.cluster import open_cluster
from tests.doctor.test_doctor import examined
from tests.runtime.conftest import cluster_of
from tests.runtime.test_existing_clusters import process

WITHOUT_SYNTHPIPE = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "synthpipe":
            raise ModuleNotFoundError("No module named 'synthpipe'")
sys.meta_path.insert(0, Finder())
"""


def opened(settings: ClusterSettings) -> None:
    with open_cluster(settings, Demand(), lambda message: None):
        pass


@pytest.mark.parametrize("part", ["worker", "client"])
def test_a_preload_that_fails_is_named(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthpipe.runtime.local._STARTS", 1)
    monkeypatch.setenv(f"DASK_DISTRIBUTED__{part.upper()}__PRELOAD", "no_such_module")
    with dask.config.set({f"distributed.{part}.preload": ["no_such_module"]}), pytest.raises(ClusterError) as caught:
        opened(ClusterSettings(Local(workers=1)))
    message = str(caught.value)
    assert "No module named 'no_such_module'" in message
    assert (
        f"distributed.{part}.preload is ['no_such_module'] (set in DASK_DISTRIBUTED__{part.upper()}__PRELOAD)"
        in message
    )


def test_encryption_that_the_site_requires_is_named() -> None:
    with (
        dask.config.set({"distributed.comm.require-encryption": True}),
        pytest.raises(ClusterError, match=r"encryption required.*distributed\.comm\.require-encryption is True"),
    ):
        opened(ClusterSettings(ExistingCluster("tcp://127.0.0.1:9")))


def test_broken_settings_of_dask_are_named_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("distributed:\n  worker: [\n")
    code, found = examined(tmp_path / "runs", DASK_CONFIG=str(tmp_path))
    assert code == 1 and found["storage"]["state"] == "fine" and found["scratch disk"]["state"] in ("fine", "note")
    assert f"Dask cannot read its settings: A dask config file at '{tmp_path}/site.yaml'" in found["workers"]["found"]


def test_a_scheduler_without_synthpipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SYNTHPIPE)
    file = tmp_path / "scheduler.json"
    arguments = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    paths = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    with process("scheduler", *arguments, PYTHONPATH=paths):
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with process("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"):
            expected = (
                r"scheduler at tcp://.* cannot read the build's tasks: ModuleNotFoundError: No module named 'synth"
            )
            with pytest.raises(ClusterError, match=expected), cluster_of(ClusterSettings(ExistingCluster(str(file)))):
                pass
