"""A build leaves out the donors that its quality table calls poor; the table must fit the patches."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner

from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.config.pipeline import DonorsSection, PatchesSection, Pipeline
from synthpipe.core.errors import CatalogError, ConfigError
from synthpipe.core.progress import Silent
from synthpipe.patches.catalog import Catalog, load_catalog, survey
from synthpipe.patches.claims import Problem
from synthpipe.patches.phantom import PHANTOM_TAXONOMY
from synthpipe.patches.quality.dropping import drop_donors, dropped_counts
from synthpipe.patches.quality.measuring import DonorQuality
from synthpipe.patches.quality.table import write_quality
from synthpipe.report import write_report
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.verification import verify
from tests.conftest import SMALL, pipeline

FAST = (*SMALL, "filter.enabled=false")


@pytest.fixture(scope="module")
def catalog(phantom: Path) -> Catalog:
    return survey(PatchesSection(root=str(phantom), layout="wsss4luad", on_error="skip"), PHANTOM_TAXONOMY)


@pytest.fixture
def table(catalog: Catalog, tmp_path: Path) -> Path:
    """A table in which the first donor is blurred and the second has a low confidence."""
    rows = [DonorQuality(patch, 0.9, 0, 1.0, 0.0, 0.0, 0.0, "", ()) for patch in catalog.donors]
    rows[0] = DonorQuality(catalog.donors[0], None, None, 0.1, 0.0, 0.0, 0.0, "", ("blur", "pen"))
    rows[1] = DonorQuality(catalog.donors[1], 0.05, 1, 1.0, 0.0, 0.0, 0.0, "", ("label",))
    path = tmp_path / "quality.csv"
    write_quality(rows, PHANTOM_TAXONOMY, path)
    return path


def sets(keys: Iterable[str]) -> list[str]:
    return [part for key in keys for part in ("--set", key)]


def section(table: Path, **keys: object) -> DonorsSection:
    return DonorsSection.model_validate({"quality": str(table), **keys})


def test_only_the_reasons_that_are_asked_for_drop_donors(catalog: Catalog, table: Path) -> None:
    first, second, *_ = (patch.id for patch in catalog.donors)

    def dropped(**keys: object) -> list[str]:
        found = drop_donors(catalog, section(table, **keys), PHANTOM_TAXONOMY)
        assert len(found.donors) + len(found.problems) == len(catalog.donors) + len(catalog.problems)
        assert found.mixed == catalog.mixed
        return [problem.id for problem in found.problems if problem.kind == "poor_donor"]

    assert dropped(drop=["blur"]) == [first]
    assert dropped(drop=["label", "fold"]) == [second]
    assert dropped(drop=["label", "pen"]) == [first, second]
    assert dropped(min_confidence=0.5) == [second]  # an unknown confidence is not low
    assert dropped(min_confidence=0.01) == []
    assert drop_donors(catalog, DonorsSection(), PHANTOM_TAXONOMY) is catalog


def test_dropped_donors_are_counted_by_class_and_reason(catalog: Catalog, table: Path) -> None:
    settings = section(table, drop=["blur", "pen"], min_confidence=0.5)
    counts = dropped_counts(drop_donors(catalog, settings, PHANTOM_TAXONOMY).problems)
    first, second = (PHANTOM_TAXONOMY.label(patch.classes) for patch in catalog.donors[:2])
    assert counts == {(first, "blur"): 1, (first, "pen"): 1, (second, "low confidence"): 1}
    hostile = "patch 'a: donor of x is not used: pen.png': donor of stroma is not used: fold"
    assert dropped_counts([Problem("a", "poor_donor", hostile)]) == {("stroma", "fold"): 1}


def without_last(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: f"{text}x.png,{'0' * 64},tumour,1,,1,0,0,0,,\r\n", "'x.png' is not a donor of these"),
        (lambda text: text + text.splitlines()[-1], "is already in line"),
        (without_last, "has no row for 1 of"),
        (lambda text: text.replace("id,sha256", "id,digest"), "line 1: the header is"),
        (lambda text: text.replace(",tumour,", ",stroma,"), "was measured as 'stroma', but its label is 'tumour'"),
        (lambda text: text.replace("blur pen", "blurry"), "line 2: reason 'blurry' is unknown, expected label, blur"),
        (lambda text: text.replace(",0.05,", ",5,"), "line 3: confidence is '5', expected a number from 0 to 1"),
        (lambda text: text.replace(",blur pen", ""), "line 2: the row has 10 cells, expected 11"),
        (lambda text: "", "the file is empty"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    catalog: Catalog, table: Path, change: Callable[[str], str], expected: str
) -> None:
    table.write_bytes(change(table.read_bytes().decode()).encode())
    with pytest.raises(CatalogError, match=r"quality\.csv") as caught:
        drop_donors(catalog, section(table, drop=["blur"]), PHANTOM_TAXONOMY)
    assert expected in str(caught.value)


def test_a_patch_that_changed_after_it_was_measured_is_refused(catalog: Catalog, table: Path) -> None:
    sha256 = catalog.donors[0].sha256
    table.write_text(table.read_text().replace(sha256, "0" * 64))
    with pytest.raises(CatalogError, match=r"line 2: .* has changed since it was measured; measure these patches"):
        drop_donors(catalog, section(table, drop=["blur"]), PHANTOM_TAXONOMY)


def test_the_table_must_keep_its_digest(catalog: Catalog, table: Path) -> None:
    with pytest.raises(CatalogError, match=r"expected donors\.quality_sha256 0000"):
        drop_donors(catalog, section(table, drop=["blur"], quality_sha256="0" * 64), PHANTOM_TAXONOMY)
    with pytest.raises(CatalogError, match=r"donors\.quality: .*cannot be read"):
        drop_donors(catalog, section(table.with_name("none.csv"), drop=["blur"]), PHANTOM_TAXONOMY)


def test_without_quality_the_fingerprint_is_that_of_before(phantom: Path) -> None:
    settings = pipeline(*SMALL, f"patches.root={phantom}")
    assert settings.model_dump(mode="json")["donors"] == {"balance_classes": False}
    assert settings.settings("candidates")["donors"] == {"balance_classes": False}


def test_the_digest_of_the_table_counts_and_its_path_does_not(table: Path) -> None:
    def fingerprint(path: Path) -> str:
        return pipeline(f"donors.quality={path}", "donors.drop=[blur]").fingerprint()

    moved = table.rename(table.with_name("moved.csv"))
    before = fingerprint(moved)
    assert fingerprint(moved.rename(table)) == before
    table.write_text(table.read_text().replace("blur pen", "pen"))
    assert fingerprint(table) != before


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("donors.drop=[blur]",), "donors.drop: needs donors.quality, the file that"),
        (("donors.min_confidence=0.5",), "donors.min_confidence: needs donors.quality"),
        (("donors.quality=quality.csv",), "donors.quality: nothing uses it; set donors.drop"),
        (("donors.quality=none.csv", "donors.drop=[blur]"), "none.csv: cannot be read: No such file"),
        (("donors.drop=[smear]",), "donors.drop"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(keys: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(*keys)
    assert expected in str(caught.value)


def test_index_writes_a_table_that_a_build_uses(phantom: Path, tmp_path: Path) -> None:
    file, table, run = tmp_path / "mine.yaml", tmp_path / "quality.csv", tmp_path / "run"
    base: Pipeline = pipeline(*FAST, f"patches.root={phantom}")
    file.write_text(base.model_dump_json())  # JSON is YAML
    result = CliRunner().invoke(main, ["index", str(file), "--quality", str(table)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
    lines = table.read_text().splitlines(keepends=True)
    blurred = next(csv.reader([lines[1]]))[0]
    lines[1] = f"{lines[1].rpartition(',')[0]},blur\r\n"
    table.write_text("".join(lines), newline="")
    keys = (f"patches.root={phantom}", f"donors.quality={table}", "donors.drop=[blur]")
    settings = pipeline(*FAST, *keys)
    planned = CliRunner().invoke(main, ["build", str(file), "-o", str(run), "--dry-run", *sets(keys)])
    build(settings, run, ClusterSettings(Local(0)), Silent())
    found = load_catalog(run, settings.taxonomy)
    dropped = [problem for problem in found.problems if problem.kind == "poor_donor"]
    assert blurred in {problem.id for problem in dropped}
    assert not {problem.id for problem in dropped} & {patch.id for patch in found.patches}
    counts = f"({len(found.donors)} donors, {len(found.mixed)} mixed), {len(found.problems)} left out"
    assert f"patches: {len(found.patches)} {counts}" in planned.output
    assert "poor_donor: patch " in planned.output
    assert str(table) in (run / "report.html").read_text()
    assert "Dropped donors" in (run / "report.html").read_text()
    write_report(run, tmp_path / "anonymous.html", anonymous=True)
    page = (tmp_path / "anonymous.html").read_text()
    assert "Dropped donors" in page
    assert str(table) not in page
    (run / "catalog.csv").write_text("damaged")
    faults = verify(run, 0, Silent()).faults
    assert any(fault.path == run / "catalog.csv" and not fault.permanent for fault in faults)


@pytest.mark.parametrize(
    ("options", "exit_code", "expected"),
    [
        (("--network", "resnet18"), 2, "--network: needs --quality"),
        (("--against", "."), 2, "--against: needs --quality"),
        (("--quality", "q.csv", "--weights", "w.pth"), 2, "--weights: needs --network"),
        (("--quality", "quality.txt"), 1, "expected a name that ends in .csv"),
        (("--quality", "q.csv", "--against", "{folder}/none"), 1, "has no images; expected names that end in .png"),
        (("--quality", "{folder}/patches.csv"), 1, "patches.csv: exists, and is not a table of donor quality"),
        (("--quality", "{folder}/other/slide.csv"), 1, "slide.png; choose another name"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_patches_are_read(
    tmp_path: Path, options: tuple[str, ...], exit_code: int, expected: str
) -> None:
    (tmp_path / "patches.csv").write_text("path,labels\n")
    (tmp_path / "none").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "slide.png").touch()
    result = CliRunner().invoke(main, ["index", str(tmp_path), *(each.format(folder=tmp_path) for each in options)])
    assert result.exit_code == exit_code
    assert expected in result.output
    assert (tmp_path / "patches.csv").read_text() == "path,labels\n"


def test_a_pipeline_file_takes_no_options_about_the_layout(phantom: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(pipeline(f"patches.root={phantom}").model_dump_json())
    result = CliRunner().invoke(main, ["index", str(file), "--layout", "folders"])
    assert "a pipeline file has the layout and the classes" in result.output
    assert result.exit_code == 2


def test_a_pipeline_file_can_name_the_table_before_it_exists(phantom: Path, tmp_path: Path) -> None:
    file, table = tmp_path / "mine.yaml", tmp_path / "quality.csv"
    keys = pipeline(f"patches.root={phantom}").model_dump(mode="json")
    donors = {"quality": str(table), "drop": ["blur"], "min_confidence": 0.2}
    file.write_text(json.dumps({**keys, "donors": donors}))
    result = CliRunner().invoke(main, ["index", str(file), "--quality", str(table)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert table.exists()
