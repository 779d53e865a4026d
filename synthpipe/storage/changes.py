"""Check that a pipeline differs from the pipeline of an existing run only in settings that may change."""

from __future__ import annotations

from typing import Any

from synthpipe.config.fields import Section, differences
from synthpipe.config.pipeline import Pipeline, Stage
from synthpipe.core.errors import StaleRunError
from synthpipe.core.records import STRATEGIES
from synthpipe.files.locations import exists
from synthpipe.storage.run import RunDirectory


def check_pipeline(run: RunDirectory, pipeline: Pipeline, extend: bool = False) -> None:
    """Refuse a pipeline whose results would differ from those that the run already has.

    The settings of a stage may change until the stage has stored a result. For example, curation settings may change
    after a build that stopped because of low acceptance. With `extend`, the pipeline may also ask a finished run for
    more composites.

    Raises
    ------
    StaleRunError
        The message lists every setting that differs.
    """
    old = run.pipeline()
    made: list[Stage] = ["candidates"] if run.holds_composites() else []
    if exists(run.training):
        made.append("training")
    if any(exists(run.report(strategy)) for strategy in STRATEGIES):
        made.append("filter")
    if run.has_curated():
        made = ["candidates", "training", "filter", "curation"]
    found = [line for stage in made for line in differences(_settings(old, stage), _settings(pipeline, stage))]
    if not found or (extend and extended(old, pipeline) == found):
        return
    message = f"{run.path}: another pipeline built this run; build into another directory, or undo these changes:"
    if extend:
        allowed = "a larger curation.wanted and, with rule threshold, larger curation.candidates and max_candidates"
        message = f"{run.path}: --extend allows only {allowed}; build into another directory, or undo these changes:"
    elif extended(old, pipeline) == found:
        message = f"{run.path}: this run is finished; use --extend to add composites, or undo these changes:"
    raise StaleRunError("\n  ".join([message, *found]))


def _settings(pipeline: Pipeline, stage: Stage) -> dict[str, Any]:
    """Return the settings of a stage. Defaults that were left out are added, so that messages can name them."""
    found = pipeline.settings(stage)
    for name in found:
        if isinstance(section := getattr(pipeline, name), Section):
            found[name] = section.defaults_left_out() | found[name]
    return found


def extended(old: Pipeline, new: Pipeline) -> list[str]:
    """Return the settings in which `new` asks for more composites than `old`, or nothing if a setting asks for fewer.

    With rule ``top_k``, more candidates could replace kept ones, so only `wanted` may grow.
    """
    keys = ("wanted",) if old.curation.rule == "top_k" else ("wanted", "candidates", "max_candidates")
    before, after = ({key: getattr(each.curation, key) for key in keys} for each in (old, new))
    found = list(differences({"curation": before}, {"curation": after}))
    grown = all(after[key][strategy] >= count for key in keys for strategy, count in before[key].items())
    return found if grown else []
