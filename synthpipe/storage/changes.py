"""The changes of a pipeline that an existing run allows."""

from __future__ import annotations

from synthpipe.config.fields import differences
from synthpipe.config.pipeline import Pipeline, Stage
from synthpipe.core.errors import StaleRunError
from synthpipe.core.records import STRATEGIES
from synthpipe.files.locations import exists
from synthpipe.storage.run import RunDirectory


def check_pipeline(run: RunDirectory, pipeline: Pipeline, extend: bool = False) -> None:
    """Refuse a pipeline that does not make what the run already has.

    Settings of a stage may change until the stage has made something: those of curation, for example, after a build
    that stopped for low acceptance. With `extend`, the pipeline may also ask a finished run for more composites.

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
    found = [line for stage in made for line in differences(old.settings(stage), pipeline.settings(stage))]
    if not found or (extend and extended(old, pipeline) == found):
        return
    message = f"{run.path}: was made by another pipeline; build into another directory, or undo:"
    if extend:
        allowed = "more curation.wanted, and for rule threshold more curation.candidates and max_candidates"
        message = f"{run.path}: --extend allows {allowed}; build into another directory, or undo:"
    elif extended(old, pipeline) == found:
        message = f"{run.path}: is finished; give --extend to add composites, or undo:"
    raise StaleRunError("\n  ".join([message, *found]))


def extended(old: Pipeline, new: Pipeline) -> list[str]:
    """Return the settings in which `new` asks for more composites than `old`; the existing composites stay.

    By rule ``top_k`` more candidates may replace some that were kept, so only `wanted` may grow.
    """
    keys = ("wanted",) if old.curation.rule == "top_k" else ("wanted", "candidates", "max_candidates")
    before, after = ({key: getattr(each.curation, key) for key in keys} for each in (old, new))
    found = list(differences({"curation": before}, {"curation": after}))
    grown = all(after[key][strategy] >= count for key in keys for strategy, count in before[key].items())
    return found if grown else []
