"""``python -m benchmarks.datacomp``: measure rows, and write the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import click

from benchmarks.datacomp.page import PAGE, RESULTS, write_page
from benchmarks.datacomp.rows import ROWS
from benchmarks.datacomp.sets import SETS
from benchmarks.datacomp.stored_results import Bench, Cell
from benchmarks.datacomp.trainer import TRAINERS
from synthpipe.cli.output import say
from synthpipe.core.errors import SynthpipeError
from synthpipe.files.writing import write_atomically


def among(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function that splits comma-separated names and refuses unknown ones."""

    def names(value: str) -> list[str]:
        found = value.split(",")
        if unknown := [name for name in found if name not in known]:
            raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return found

    return names


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(list(ROWS)))
@click.option("--list", "listed", is_flag=True, help="List rows, networks and data sets, and exit.")
@click.option("--networks", type=among(TRAINERS), default="pretrained,scratch", show_default=True)
@click.option("--sets", type=among(SETS), default="glas,phantom", show_default=True)
@click.option("--sizes", type=among(("1500", "6000")), default="1500", show_default=True, help="Samples of a row.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Number of seeds, from 0.")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the GlaS images."
)
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("runs/datacomp"),
    help="Folder for tiles and builds [runs/datacomp].",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=RESULTS,
    help="Folder for results [benchmarks/results/datacomp].",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads of a training.")
@click.option("--page", is_flag=True, help="Only write docs/datacomp.md from the results in -o.")
def main(
    rows: tuple[str, ...],
    listed: bool,
    networks: list[str],
    sets: list[str],
    sizes: list[str],
    seeds: int,
    data: Path | None,
    directory: Path,
    output: Path,
    threads: int,
    page: bool,
) -> None:
    """Train fixed networks on the samples of ROWS (all by default), one seed after the other.

    Existing results are kept, so the same command resumes a measurement that was stopped.

    \b
    Examples:
      python -m benchmarks.datacomp --list
      python -m benchmarks.datacomp --data /data/glas --networks pretrained
      python -m benchmarks.datacomp mosaic bezier --sets phantom --seeds 3
      python -m benchmarks.datacomp --page
    """
    if listed:
        for title, named in (
            ("rows", {name: row.about for name, row in ROWS.items()}),
            ("networks", {name: trainer.about for name, trainer in TRAINERS.items()}),
            ("sets", {name: about for name, (about, _) in SETS.items()}),
        ):
            say("\n".join([f"{title}:", *(f"  {name:12} {about}" for name, about in named.items())]))
        return
    try:
        if page:
            write_atomically(PAGE, write_page(output))
            say(str(PAGE))
            return
        output.mkdir(parents=True, exist_ok=True)
        benches = {name: Bench(SETS[name][1](data, directory), output, directory / "runs") for name in sets}
    except SynthpipeError as error:
        raise click.ClickException(str(error)) from error
    failed = 0
    for seed, (name, bench), size, row in product(range(seeds), benches.items(), sizes, rows or ROWS):
        say(f"{name}, {size}, {row}, seed {seed}", err=True)
        try:
            bench.run([(Cell(name, each, int(size), row, seed), TRAINERS[each]) for each in networks], threads)
        except SynthpipeError as error:  # a filter may accept too few; other rows do not need it
            say(f"Error: {error}", err=True)
            failed += 1
    if failed:
        raise click.ClickException(f"{failed} rows could not be measured; the messages above have the reasons")


if __name__ == "__main__":
    main()
