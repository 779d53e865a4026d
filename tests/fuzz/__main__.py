"""``python -m tests.fuzz``: try damaged and hostile input, and say what must not happen."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from tests.fuzz.judge import LIMIT, Trial, Verdict, judge
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Finding


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("targets", nargs=-1, type=click.Choice(list(TARGETS)), metavar="[TARGET]...")
@click.option("--count", type=click.IntRange(min=1), help="Cases of each target [those of a full run].")
@click.option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, help="Share of a full run.")
@click.option("--case", type=click.IntRange(min=0), help="Show this case of the one TARGET, and try it alone.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--limit", type=float, default=LIMIT, show_default=True, help="Seconds that a step may take.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for runs and checkpoints that cases damage copies of [a temporary one].",
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(
    targets: tuple[str, ...],
    count: int | None,
    scale: float,
    case: int | None,
    seed: int,
    workers: int,
    limit: float,
    cache: Path | None,
    report: Path | None,
) -> None:
    """Try cases of each TARGET (labels, pipelines, images, stores, checkpoints, tables; by default of all).

    A case must be accepted with the right result or be refused clearly. It must not crash, raise an unforeseen error,
    take more than 5 s a step or 1 GiB, write outside of its folder, or use the network. The exit code is 1 where one
    does. Equal seeds give equal cases.

    \b
    Examples:
      python -m tests.fuzz --scale 0.01
      python -m tests.fuzz images stores --count 200 --report fuzz.json
      python -m tests.fuzz images --case 1234
    """
    if case is not None and len(targets) != 1:
        raise click.UsageError("--case needs one TARGET")
    with tempfile.TemporaryDirectory(prefix="fuzz-cache-") as temporary:
        verdicts = []
        for name in targets or TARGETS:
            full, spec = TARGETS[name]
            numbers = range(count or max(1, round(full * scale))) if case is None else range(case, case + 1)
            trial = Trial(name, spec, numbers, seed, (cache or Path(temporary)).absolute(), workers, limit)
            verdicts.append(_judged(trial if case is None else replace(trial, show=click.echo)))
    click.echo("\n".join(_table(verdicts)))
    if report:
        about = {"seed": seed, "python": sys.version.split()[0], "targets": [each.to_json() for each in verdicts]}
        report.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if any(each.findings for each in verdicts):
        sys.exit(1)


@dataclass
class _Reporter:
    """Shows progress, and each finding with the command that replays it."""

    trial: Trial
    bar: Any

    def done(self, cases: int) -> None:
        self.bar.update(cases)

    def found(self, finding: Finding) -> None:
        target, seed = self.trial.name, self.trial.seed
        click.echo(f"\n{target}: {finding.kind}: {finding.what} (in {finding.step})")
        if self.trial.show and finding.detail:
            click.echo(finding.detail)
        click.echo(f"  python -m tests.fuzz {target} --seed {seed} --case {finding.case}")


def _judged(trial: Trial) -> Verdict:
    with click.progressbar(length=len(trial.numbers), label=trial.name, file=sys.stderr) as bar:
        return judge(trial, _Reporter(trial, bar))


def _table(verdicts: Sequence[Verdict]) -> list[str]:
    head = ("target", "cases", "seconds", "accepted", "refused", "findings")
    rows = [head, *map(_row, verdicts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows
    ]


def _row(verdict: Verdict) -> tuple[str, ...]:
    kinds = Counter[str]()
    for (kind, _), count in verdict.counts.items():
        kinds[kind] += count
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    numbers = f"{verdict.cases:,}", f"{verdict.seconds:.0f}", f"{verdict.accepted:,}", f"{verdict.refused:,}"
    return verdict.target, *numbers, found


if __name__ == "__main__":
    main()
