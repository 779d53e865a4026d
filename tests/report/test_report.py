"""The content of a report, compared with its run; and the moments when a build writes it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from upath import UPath

from synthpipe.build import build
from synthpipe.cli import main
from synthpipe.cli.progress import LogReporter
from synthpipe.config.pipeline import PatchesSection
from synthpipe.core.display_names import STRATEGY
from synthpipe.core.errors import FilterError, StoreError
from synthpipe.core.records import REASONS, STRATEGIES, Strategy
from synthpipe.curated import open_run
from synthpipe.patches.catalog import load_catalog
from synthpipe.report import write_report
from synthpipe.report.anonymous import without_names
from synthpipe.report.facts import gather_facts
from synthpipe.report.galleries import choose_kept, choose_rejected, spaced_by_score
from synthpipe.report.html import html_page
from synthpipe.runtime import ClusterSettings, Local
from synthpipe.storage.run import RunDirectory
from synthpipe.storage.stores import CompositeStore
from synthpipe.storage.tallies import score_counts, tally_candidates
from synthpipe.verification import repair, verify
from tests.conftest import pipeline
from tests.report.conftest import SMALL


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def resume(run: Path) -> None:
    build(RunDirectory(run).pipeline(), run, ClusterSettings(Local(0)), LogReporter())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_candidates_are_counted_block_by_block(run: Path, strategy: Strategy) -> None:
    donors = load_catalog(run, RunDirectory(run).pipeline().taxonomy).donors
    found = tally_candidates(CompositeStore.open(run / "candidates.zarr", strategy), 3, donors)
    group = zarr.open_group(run / "candidates.zarr" / strategy, mode="r")
    values = {name: np.asarray(group[name][:]) for name in ("p_real", "verdict", "class_pixels", "donors")}  # type: ignore[index]
    kept = values["verdict"] == REASONS.index("kept")
    assert found.stored.all() and found.judged and found.scored and np.array_equal(found.kept, kept)
    assert np.array_equal(found.p_real, values["p_real"])
    assert np.array_equal(found.class_pixels, values["class_pixels"][kept].sum(0))
    assert np.array_equal(found.all_class_pixels, values["class_pixels"].sum(0))
    uses, groups = [set[int]() for _ in donors], {donor.group: set[int]() for donor in donors}
    together = np.zeros((3, 3), int)
    for index in np.flatnonzero(kept).tolist():
        for number in values["donors"][index].tolist():
            uses[number].add(index)
            groups[donors[number].group].add(index)
        shown = np.flatnonzero(values["class_pixels"][index, :3])
        together[np.ix_(shown, shown)] += 1
    assert found.donor_uses.tolist() == [len(each) for each in uses]
    assert found.group_uses.tolist() == [len(groups[name]) for name in sorted(groups)]
    assert np.array_equal(found.together, together)
    below, above = score_counts(found, 10)
    assert below.sum() == kept.sum() and above.sum() == (~kept).sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_galleries_are_sorted_and_show_both_ends_of_the_scores(run: Path, strategy: Strategy) -> None:
    donors = load_catalog(run, RunDirectory(run).pipeline().taxonomy).donors
    found = tally_candidates(CompositeStore.open(run / "candidates.zarr", strategy), 3, donors)
    kept, rejected = choose_kept(found, 10), choose_rejected(found, 10)
    assert len(kept) == len(set(kept)) == 10 and found.kept[kept].all() and not found.kept[rejected].any()
    for gallery, among in ((kept, found.kept), (rejected, ~found.kept)):
        scores = found.p_real[gallery]
        assert (np.diff(scores) <= 0).all()
        assert (scores[0], scores[-1]) == (found.p_real[among].max(), found.p_real[among].min())
    assert {found.verdicts[index] for index in rejected} == set(np.unique(found.verdicts[~found.kept]))


def test_even_spacing_needs_no_scores() -> None:
    scores = np.full(100, np.nan, np.float32)
    assert spaced_by_score(scores, np.ones(100, bool), 5) == [0, 25, 50, 74, 99]
    assert spaced_by_score(scores, np.zeros(100, bool), 5) == []
    scores[[7, 3]] = 0.5
    assert spaced_by_score(scores, np.ones(100, bool), 100)[:2] == [3, 7]


def test_a_build_ends_with_a_report_that_follows_from_what_is_stored(run: Path, tmp_path: Path) -> None:
    stored = (run / "report.html").read_text(encoding="utf-8")
    assert stored == html_page(gather_facts(run))
    data = json.loads((run / "run.json").read_text())
    for text in (data["fingerprint"], data["catalog_digest"], data["versions"]["zarr"], "synthpipe verify"):
        assert text in stored
    assert "report.html" not in (run / "SHA256SUMS").read_text()
    assert not verify(run, 0, LogReporter()).faults


def test_the_security_policy_has_the_digests_of_style_and_script(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    policy = re.search('Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src 'none'" in policy[1]
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'")
    assert not re.search(r"<[^>]*\s(style|on\w+)=[^>]*>", re.sub(r"&[^;]*;", "", text.split("</style>")[1]))


def test_a_build_that_changes_the_run_writes_a_new_report(run: Path, tmp_path: Path) -> None:
    path = copy_of(run, tmp_path)
    (path / "report.html").write_text("old")
    resume(path)
    assert (path / "report.html").read_text() == "old"  # finished: nothing to do
    (path / "report.html").unlink()
    resume(path)
    assert "<h1>" in (path / "report.html").read_text()
    (path / "report.html").write_text("old")
    (path / "curated.zarr" / "image" / "c.0.0.0.0").unlink()
    repair(path, 0, 0, LogReporter())
    assert "<h1>" in (path / "report.html").read_text()


def test_a_run_without_a_report_is_still_finished(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_of(run, tmp_path)
    (path / "report.html").unlink()
    (path / "candidates.zarr" / "mosaic" / "recipe" / "c.0").write_bytes(b"damaged")
    resume(path)
    log = capsys.readouterr().err
    assert "finished and complete, but" in log and "recipe/c.0" in log and "synthpipe report" in log
    result = CliRunner().invoke(main, ["report", str(path)])
    assert result.exit_code == 1 and "recipe/c.0" in result.stderr and "Traceback" not in result.output


def test_an_unfinished_run_has_a_report(run: Path, tmp_path: Path) -> None:
    path = copy_of(run, tmp_path)
    RunDirectory(path).reopen()
    assert not (path / "report.html").exists()
    shutil.rmtree(path / "curated.zarr")
    for strategy in STRATEGIES:
        shutil.rmtree(path / "candidates.zarr" / strategy / "verdict")
    (path / "candidates.zarr" / "mosaic" / "image" / "c.1.0.0.0").unlink()
    shutil.rmtree(path / "candidates.zarr" / "bezier" / "p_real")
    text = write_report(path).read_text(encoding="utf-8")
    assert "not finished" in text and "48 of 64 planned candidates are stored; of the first 64, 30 may be kept" in text
    assert "Candidates, none chosen yet" in text and "Not kept" not in text
    (path / "build.json").write_text('{"finished": null, "stages": {}, "strategies": {}}')
    assert "48 of 64 planned candidates are stored; no candidate is judged yet" in write_report(path).read_text(
        encoding="utf-8"
    )
    shutil.rmtree(path / "candidates.zarr")
    assert "No candidates are stored yet" in write_report(path).read_text(encoding="utf-8")


def test_a_build_that_stopped_shows_why(hostile: Path, tmp_path: Path) -> None:
    """A limit on donor uses keeps too few candidates; the next build wants fewer and shortens the plan."""
    path, local = tmp_path / "run", ClusterSettings(Local(0))
    changes = (
        *(*SMALL, "patches.layout=csv", f"patches.root={hostile}", "patches.on_error=skip", "bezier=null"),
        *("filter.enabled=false", "curation.rule=threshold", "curation.max_donor_uses=4"),
    )
    with pytest.raises(FilterError, match="donor used too often"):
        build(pipeline(*changes, "curation.wanted=64", "curation.candidates=64"), path, local, LogReporter())
    verdicts = json.loads((path / "build.json").read_text())["strategies"]["mosaic"]["verdicts"]
    total, kept, overused = sum(verdicts.values()), verdicts["kept"], verdicts["donor_overused"]
    assert 2 < kept < 16 and overused > 16
    text = write_report(path).read_text(encoding="utf-8")
    assert f"of the first {total}, {kept} may be kept; 64 are wanted" in text
    assert re.search(f">donor used too often</t.><td[^>]*>{overused}<", text)
    build(pipeline(*changes, "curation.wanted=2", "curation.candidates=2"), path, local, LogReporter())
    text = (path / "report.html").read_text(encoding="utf-8")
    assert "2 of 2 candidates were kept; 2 were wanted." in text
    assert f"{total - 2} more were made for settings that have changed since." in text


def test_every_view_of_a_run_warns_of_kept_composites_that_the_filter_rejects(
    run: Path, hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The threshold is above all scores, and rule top_k keeps composites that the filter rejects."""
    path = copy_of(run, tmp_path)
    shutil.rmtree(path / "curated.zarr")
    settings = RunDirectory(path).pipeline()
    strict = settings.model_copy(update={"curation": settings.curation.model_copy(update={"threshold": 1.0})})
    RunDirectory(path).reopen()
    build(strict, path, ClusterSettings(Local(0)), LogReporter())
    lowest = {}
    for strategy in STRATEGIES:
        found = tally_candidates(
            CompositeStore.open(path / "candidates.zarr", strategy), 3, load_catalog(path, settings.taxonomy).donors
        )
        kept = found.p_real[found.kept]
        lowest[strategy] = f"{kept.min():.3f}"
        entry = json.loads((path / "build.json").read_text())["strategies"][strategy]
        assert entry["below_threshold"] == {"count": 30, "kept": 30, "lowest": float(kept.min())}
    status, inspected = (CliRunner().invoke(main, [name, str(path)]).stdout for name in ("status", "inspect"))
    notebook = re.sub("<[^>]*>", "", open_run(path)._repr_html_())
    card, log = (path / "README.md").read_text(), capsys.readouterr().err
    text = (path / "report.html").read_text()
    for strategy, score in lowest.items():
        kept_of = f"30 of the 30 kept {STRATEGY[strategy]} composites score no more than"
        said = f"{kept_of} curation.threshold (1), the lowest {score}"
        for shown in (
            text,
            status,
            inspected,
            notebook,
            log,
            card,
        ):
            assert said in shown
    assert "ranked below the cut" in text and "surplus" not in text.split("pipeline file")[0]
    assert "looks synthetic" not in text and text.count("kept, below the threshold") >= 60
    assert "ranked below the cut" in inspected and "ranked below the cut" in notebook
    journal = json.loads((path / "build.json").read_text())
    for entry in journal["strategies"].values():
        del entry["below_threshold"]  # as in runs of earlier versions
    (path / "build.json").write_text(json.dumps(journal))
    assert "30 of the 30 kept Mosaic composites" in write_report(path).read_text()
    assert CliRunner().invoke(main, ["status", str(path)]).exit_code == 0


def test_the_report_explains_a_filter_that_is_not_calibrated(run: Path) -> None:
    facts = gather_facts(run)
    epoch = facts.strategies[0].filter["epochs"][0]  # type: ignore[index]
    assert epoch["val_best_accuracy"] >= epoch["val_accuracy"] and 0 <= epoch["val_best_threshold"] <= 1

    def shown(**changes: float | None) -> str:
        report = {"accuracy": 0.66, "auroc": 0.97, "best_epoch": 0, "epochs": [{**epoch, **changes}]}
        strategies = [replace(each, filter={**(each.filter or {}), **report}) for each in facts.strategies]
        return html_page(replace(facts, strategies=tuple(strategies)))

    text = shown(val_best_accuracy=0.93, val_best_threshold=0.083)
    assert "accuracy 0.660 at the threshold 0.5, at best 0.930 (threshold 0.083), AUROC 0.970" in text
    assert "Its scores are not calibrated" in text and "curation.threshold near 0.083" in text
    assert "not calibrated" not in shown(val_best_accuracy=0.67, val_best_threshold=0.4)
    earlier = shown(val_best_accuracy=None, val_best_threshold=None)
    assert "accuracy 0.660 at the threshold 0.5, AUROC 0.970" in earlier and "None" not in earlier


def test_other_values_of_a_filter_report_are_shown(run: Path) -> None:
    facts, found = gather_facts(run), {"expected_error": 0.0625, "bins": list(range(20)), "by_slide": {"<b>": 1}}
    strategies = [replace(each, filter={**(each.filter or {}), "calibration": found}) for each in facts.strategies]
    text = html_page(replace(facts, strategies=tuple(strategies)))
    for part in ("<dt>calibration, expected error</dt><dd>0.0625</dd>", "10, 11, ... (20 in all)", "&lt;b&gt;</dt>"):
        assert part in text


def test_a_report_of_a_run_at_a_url(run: Path) -> None:
    target = UPath("memory://reports/run")
    for file in run.rglob("*"):
        if file.is_file():
            target.fs.pipe_file(f"{target.path}/{file.relative_to(run).as_posix()}", file.read_bytes())
    (target / "report.html").unlink()
    result = CliRunner().invoke(main, ["report", "memory://reports/run"])
    assert result.exit_code == 0 and "memory://reports/run/report.html: " in result.stdout
    text = (target / "report.html").read_text()
    assert "synthpipe replay memory://reports/run mosaic" in text
    assert html_page(gather_facts(run)).replace("&#39;", "").count('class="card"') == text.count('class="card"')


def test_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run\.json: not found"):
        write_report(tmp_path)
    result = CliRunner().invoke(main, ["report", str(tmp_path / "none")])
    assert result.exit_code == 1 and "not found; expected a file of a run that `synthpipe build` wrote" in result.stderr


def test_an_anonymous_report_has_no_name_of_the_run_and_its_patches(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "mailed.html"
    facts = gather_facts(run)
    result = CliRunner().invoke(main, ["report", str(run), "--anonymous", "-o", str(target)])
    assert result.exit_code == 0, result.output
    text = target.read_text(encoding="utf-8")
    (pipeline_file,) = re.findall(r"data:text/yaml;base64,([^\"]*)", text)
    text = html.unescape(re.sub(r"data:image/[^\"]*", "", text)) + base64.b64decode(pipeline_file).decode()
    patches, problems = facts.catalog.patches, facts.catalog.problems
    paths = [str(run), facts.pipeline.patches.root, *(name for patch in patches for name in (patch.id, patch.path))]
    paths += [problem.id for problem in problems]
    named = {part for path in paths for part in (path, *Path(path).parts)} - {"/"}
    named |= {facts.pipeline.name, *(patch.group for patch in patches), *(Path(patch.id).stem for patch in patches)}
    assert len(named) > 150 and problems
    assert not [name for name in named if name in text]
    assert re.search("<code>patch [0-9]{2}</code>", text) and "slide 3" in text and "left-out patch 1" in text
    assert "synthpipe replay RUN bezier" in text and "root: PATCHES" in text
    shown = facts.strategies[1].kept[0]
    number = 1 + [patch.id for patch in patches].index(shown.recipe.background)  # type: ignore[union-attr]
    assert f"<code>patch {number:02}</code>" in html_page(without_names(facts))
    for card in RunDirectory(run).cards():  # cards are made for others
        assert not [name for name in named - {facts.pipeline.name} if name in card.read_text(encoding="utf-8")]


def test_remarks_with_a_name_are_left_out_of_an_anonymous_report(run: Path) -> None:
    facts = gather_facts(run)
    remarks = ["stroma has 0.1% of the kept pixels", f"a single donor, {facts.catalog.patches[3].id!r}"]
    assert (
        without_names(replace(facts, summary={**facts.summary, "remarks": remarks})).summary["remarks"] == remarks[:1]
    )


def test_an_anonymous_report_names_no_network_of_a_user(run: Path) -> None:
    facts, name = gather_facts(run), "local-dir:/home/someone/network"
    settings = facts.pipeline.filter.model_copy(update={"network": name, "weights": "/home/someone/weights.pt"})
    own = tuple(replace(each, filter={**(each.filter or {}), "network": name}) for each in facts.strategies)
    changed = replace(facts, pipeline=facts.pipeline.model_copy(update={"filter": settings}), strategies=own)
    text = html_page(without_names(changed))
    assert "someone" not in text and "network: NETWORK" in text and "weights: WEIGHTS" in text


def test_an_anonymous_report_has_no_patch_setting_of_a_user(run: Path) -> None:
    facts = gather_facts(run)
    texts = PatchesSection.model_fields.keys() - {"layout", "on_error", "min_side", "max_pixels"}
    chosen = dict.fromkeys(texts, "of-someone") | {"exclude": ("of-someone",)}
    patches = facts.pipeline.patches.model_copy(update=chosen)
    settings = {"patches": patches, "name": "of-someone", "license": "of-someone"}
    named = replace(facts, pipeline=facts.pipeline.model_copy(update=settings))
    assert "label_pattern: of-someone" in html_page(named) and "someone" not in html_page(without_names(named))


def test_an_anonymous_report_is_a_file_of_its_own(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    result = CliRunner().invoke(main, ["report", str(run), "--anonymous"])
    assert result.exit_code == 2 and "name the file to write with -o" in result.stderr
    assert (run / "report.html").read_bytes() == before


def test_the_rounds_of_the_plan_are_shown(run: Path) -> None:
    facts = gather_facts(run)
    row = facts.summary["rounds"][0]
    grown = [row, {**row, "round": 2, "candidates": 128, "new": 64, "surplus": row["surplus"] + 64, "seconds": 1234.5}]
    text = html_page(replace(facts, summary={**facts.summary, "rounds": grown}))
    assert text.count("Rounds of the plan") == 1 and '<td class="number">1,234.5</td>' in text
    assert f'<td class="number">{row["donors"]}</td>' in text and ">round 2</text>" in text
    earlier = html_page(replace(facts, summary={**facts.summary, "rounds": []}))  # of a version that stored none
    assert "Rounds of the plan" not in earlier


def test_the_report_has_words_and_no_code_names(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<style>.*?</style>|<script>.*?</script>|<pre.*?</pre>|<[^>]*>", " ", text, flags=re.DOTALL)
    for name in ("looks_synthetic", "too_few_classes", "donor_overused", "surplus", "p_real", "val_", "train_"):
        assert name not in re.sub(r"[\w.]+\.zarr/\S+", "", shown), name
    assert "Mosaic candidates" in shown and "donor used too often" in shown and "score 0." in shown
