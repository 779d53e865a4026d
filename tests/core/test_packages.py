"""Environments that lack packages: rendering needs no torch, and messages name what to install."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from synthpipe.core.errors import MissingPackageError
from synthpipe.core.packages import TORCH, TRAIN, absent, require
from tests.conftest import DEMO, ROOT, SMALL
from tests.requirements import render_requirements

_BLOCKED = """\
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def without(directory: Path, *packages: str) -> dict[str, str]:
    """Return the environment of processes, and of all that they start, in which packages cannot be imported."""
    directory.mkdir(exist_ok=True)
    names = {package.replace("-", "_") for package in packages}
    (directory / "sitecustomize.py").write_text(_BLOCKED.format(names=names))
    return os.environ | {"PYTHONPATH": f"{directory}:{ROOT}"}


def synthpipe(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "synthpipe", *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_lists_of_packages_are_those_of_the_project() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")

    def names(text: str) -> set[str]:
        return {Requirement(line).name for line in text.strip().splitlines()}

    assert set(TRAIN) == names(settings["options.extras_require"]["train"])
    assert set(TORCH) <= names(settings["options"]["install_requires"])


def test_rendering_requires_no_torch() -> None:
    text = render_requirements()
    assert not set(TORCH) & {line.split("==")[0] for line in text.splitlines()}


def test_what_is_missing_is_named_with_the_command_that_installs_it() -> None:
    assert absent("numpy", "no-such-package", "no-such-parent.child") == ["no-such-package", "no-such-parent.child"]
    require("it", "numpy", "zarr")
    with pytest.raises(MissingPackageError) as caught:
        require("it", "numpy", "no-such-package")
    assert str(caught.value) == (
        "it needs no-such-package, which is not installed; install with: pip install no-such-package"
    )


@pytest.mark.slow
def test_a_torchvision_that_does_not_fit_torch_is_named(phantom: Path, tmp_path: Path) -> None:
    """One for CUDA beside a torch for CPUs: pip installs them, since their versions agree."""
    (tmp_path / "torchvision").mkdir()
    fault = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise RuntimeError({fault!r})")
    settings = [part for each in (*SMALL, f"patches.root={phantom}") for part in ("--set", each)]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    refused = synthpipe("build", str(DEMO), *settings, "-o", str(tmp_path / "run"), env=env)
    assert refused.returncode == 1 and not (tmp_path / "run").exists()
    assert refused.stderr.endswith(
        f"Error: torchvision does not fit the installed torch: {fault}\n"
        "Install both again from the same index, as docs/install.md shows\n"
    )


@pytest.mark.slow
def test_without_torch_a_build_without_filter_makes_the_same_bytes(phantom: Path, tmp_path: Path) -> None:
    env = without(tmp_path / "site", *TORCH)
    settings = [part for each in (*SMALL, f"patches.root={phantom}") for part in ("--set", each)]
    refused = synthpipe("build", str(DEMO), *settings, "-o", str(tmp_path / "refused"), env=env)
    assert refused.returncode == 1 and "pip install huggingface-hub safetensors timm torch torch" in refused.stderr
    assert "--set filter.enabled=false" in refused.stderr and not (tmp_path / "refused").exists()

    digests = []
    for name, environment in (("bare", env), ("full", os.environ | {"PYTHONPATH": str(ROOT)})):
        options = ("--set", "filter.enabled=false", "--workers", "0", "-o", str(tmp_path / name))
        built = synthpipe("build", str(DEMO), *settings, *options, env=environment)
        assert built.returncode == 0, built.stderr
        objects = [path for path in (tmp_path / name).rglob("*") if path.is_file() and ".zarr" in str(path)]
        digests.append({str(path.relative_to(tmp_path / name)): _digest(path) for path in objects})
    assert digests[0] == digests[1] and len(digests[0]) > 40

    for arguments in (["verify"], ["status"], ["inspect"]):
        result = synthpipe(*arguments, str(tmp_path / "bare"), env=env)
        assert result.returncode == 0, result.stderr

    full = tmp_path / "full"
    record = json.loads((full / "run.json").read_text())
    record["versions"]["torch"] = "not installed"
    (full / "run.json").write_text(json.dumps(record))
    (full / "SHA256SUMS").unlink()
    resumed = synthpipe("build", str(DEMO), *settings, *options)
    assert resumed.returncode == 0 and "begun with" not in resumed.stderr, "torch made none of its bytes"


def test_without_its_packages_the_segmentation_stage_names_all_of_them(tmp_path: Path) -> None:
    env = without(tmp_path / "site", "torch", "lightning")
    checkpoint, image = tmp_path / "a.ckpt", ROOT / "docs" / "demo-segmentation.jpg"
    checkpoint.touch()
    result = synthpipe("predict", str(checkpoint), str(image), "-o", str(tmp_path / "out"), env=env)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.endswith("which are not installed; install with: pip install torch lightning\n")


def test_doctor_is_content_without_torch(tmp_path: Path) -> None:
    result = synthpipe("doctor", str(tmp_path), "--json", env=without(tmp_path / "site", *TORCH))
    found = {each["what"]: each for each in json.loads(result.stdout)}
    assert result.returncode == 0 and found["packages"]["state"] == "fine"
    assert found["filter"]["state"] == "note" and "pip install " in found["filter"]["cure"]
    assert "'torch>=2.4'" in found["filter"]["cure"] and "'timm>=1.0'" in found["filter"]["cure"]


def test_a_url_whose_client_is_missing_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    env = without(tmp_path / "site", "s3fs")
    result = synthpipe("status", "s3://bucket/run", env=env)
    assert "s3://bucket/run needs s3fs, which is not installed; install with: pip install s3fs" in result.stderr


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
