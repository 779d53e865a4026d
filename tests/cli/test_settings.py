from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from synthpipe.cli import main
from synthpipe.cli.settings import SettingsFile
from synthpipe.config.shipped import SHIPPED
from synthpipe.patches.phantom import PhantomSpec, write_phantom
from tests.conftest import ROOT


def test_the_shipped_files_are_those_of_the_project() -> None:
    assert (SHIPPED / "demo.yaml").read_bytes() == (ROOT / "pipelines" / "demo.yaml").read_bytes()
    assert (SHIPPED / "training" / "published.yaml").is_file() and (SHIPPED / "clusters" / "slurm.yaml").is_file()


@pytest.mark.parametrize("name", ["bcss", "demo", "glas", "luad-histoseg", "wsss4luad"])
def test_a_name_stands_for_a_shipped_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name, by_path = (CliRunner().invoke(main, ["validate", each]) for each in (name, str(SHIPPED / f"{name}.yaml")))
    assert by_name.exit_code == by_path.exit_code
    assert by_name.output == by_path.output


def test_a_file_of_the_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("name: mine\n")
    assert SettingsFile().convert("demo", None, None) == Path("demo")


@pytest.mark.parametrize("value", ["other/demo", "demo.yml", "./demo.yaml"])
def test_what_is_no_name_is_a_path(value: str) -> None:
    assert SettingsFile().convert(value, None, None) == Path(value)


def test_other_names_and_folders_are_refused_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["build", "dmeo"])
    assert result.exit_code == 2
    assert "no file 'dmeo'" in result.output and "bcss, demo, glas" in result.output
    Path("demo").mkdir()
    result = CliRunner().invoke(main, ["build", "demo"])
    assert result.exit_code == 2 and "'demo' is a folder, expected a YAML file" in result.output


def test_names_are_completed() -> None:
    command = main.get_command(None, "build")  # type: ignore[arg-type]  # needs no context
    assert command
    (item,) = SettingsFile().shell_complete(None, command.params[0], "wss")  # type: ignore[arg-type]
    assert item.value == "wsss4luad"


def test_index_takes_the_names_that_build_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_phantom(Path("data/phantom"), PhantomSpec(slides=2, patches=12, images=0, size=48))
    by_name, by_path = (
        CliRunner().invoke(main, ["index", each, "--json"]) for each in ("demo", str(SHIPPED / "demo.yaml"))
    )
    assert by_name.exit_code == by_path.exit_code == 0, by_name.output
    assert by_name.output == by_path.output and '"patches": 12' in by_name.output


def test_a_folder_of_the_name_is_indexed_instead_of_the_shipped_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_phantom(Path("demo"), PhantomSpec(slides=2, patches=12, images=0, size=48))
    result = CliRunner().invoke(main, ["index", "demo", "--json"])
    assert result.exit_code == 0 and '"patches": 12' in result.output
