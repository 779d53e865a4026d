from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from synthpipe.cli.cluster import ClusterOptions, cluster_settings
from synthpipe.cli.main import main
from synthpipe.runtime import ClusterSettings, ExistingCluster, JobQueue, JobSettings, Local, Tls
from tests.conftest import DEMO, ROOT

NOTHING: dict[str, Any] = {
    "workers": None,
    "memory": None,
    "scheduler": None,
    "tls_ca": None,
    "tls_cert": None,
    "tls_key": None,
    "cluster": None,
    "cluster_config": None,
    "cluster_set": (),
    "device": "auto",
    "patience": 600.0,
    "scratch": None,
}


def given(options: Mapping[str, object]) -> ClusterOptions:
    """The options that a user gave some of."""
    return cast(ClusterOptions, {**NOTHING, **options})


def test_options_become_settings(tmp_path: Path) -> None:
    assert cluster_settings(**NOTHING) == ClusterSettings()
    local = cluster_settings(**given({"workers": 3, "memory": "4GiB", "scratch": tmp_path, "cluster": "local"}))
    assert local == ClusterSettings(Local(3, 4 << 30), scratch=tmp_path)
    pem = tmp_path / "a.pem"
    tls = {**NOTHING, "tls_ca": pem, "tls_cert": pem, "tls_key": pem}
    joined = cluster_settings(**given({**tls, "scheduler": "tls://head:8786", "device": "cuda", "patience": 5.0}))
    assert joined == ClusterSettings(ExistingCluster("tls://head:8786", Tls(pem, pem, pem)), "cuda", 5.0)
    file = ROOT / "pipelines" / "clusters" / "slurm.yaml"
    queued = cluster_settings(**given({"cluster": "slurm", "cluster_config": file, "cluster_set": ("jobs=7",)}))
    assert isinstance(queued.where, JobQueue) and isinstance(queued.where.jobs, JobSettings)
    assert queued.where.jobs.jobs == 7 and queued.where.kind == "slurm"
    assert queued.scratch_on_nodes == Path(queued.where.jobs.local_directory or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--scheduler tcp://head:8786 --cluster slurm", "joins a cluster, but --cluster starts a cluster"),
        ("--scheduler tcp://head:8786 --workers 2", "--workers and --memory apply to this machine"),
        ("--scheduler tcp://head:8786 --workers 0", "--workers and --memory apply to this machine"),
        ("--workers 0 --memory 4GiB", "--memory limits worker processes, but --workers 0 starts no processes"),
        ("--workers 0 --device cuda", "--device cuda: torch sees no GPU on this machine"),
        ("--cluster-set jobs=2", "name the kind of queue with --cluster"),
        ("--scheduler tls://head:8786 --tls-ca setup.cfg", "--tls-ca, --tls-cert and --tls-key need each other"),
        ("--memory much", "Invalid value for --memory: 'much' is not a size"),
        ("--cluster slurm --cluster-set corse=2", "did you mean 'cores'"),
        ("--scheduler /dev/zero", "neither an address such as tcp://host:8786 nor a file that `dask scheduler"),
        ("--scheduler nowhere.json", "nowhere.json: neither an address such as tcp://host:8786 nor a file"),
        ("--device cuda", "--device cuda: torch sees no GPU on this machine"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: str, message: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = ["build", str(DEMO), "--set", f"patches.root={phantom}", "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*command, "--set", "filter.enabled=false", *options.split()])
    assert result.exit_code != 0 and message in result.output and "Traceback" not in result.output
