"""`synthpipe status`: show the progress of a build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from synthpipe.cli.options import LOCATION, json_option
from synthpipe.cli.output import say
from synthpipe.core.display_names import STRATEGY, VERDICT
from synthpipe.core.display_names import stage as in_words
from synthpipe.files.locations import Location


@click.command()
@click.argument("run", type=LOCATION)
@json_option
def status(run: Location, as_json: bool) -> None:
    """Show the progress of a build.

    status only reads RUN, so it works in any shell, even after the build was killed. Rates are means over the last
    minutes. The remaining work of a stage can grow, because a build makes more candidates if it keeps too few.

    \b
    Examples:
      synthpipe status runs/demo
      watch -n 10 synthpipe status runs/demo
      synthpipe status runs/demo --json
    """
    from synthpipe.build.status import status_of

    found = status_of(run)
    say(json.dumps(found, indent=1) if as_json else "\n".join(_status_lines(found)))


def _status_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['path']}: {found['name']}, {in_words(found['stage'])}"
    if found["idle_seconds"] is not None and not found["finished"]:
        yield f"  latest object: {_duration(found['idle_seconds'])} ago"
    for entry in found["progress"]:
        done = f"{entry['done']} of {entry['planned']} shards"
        line = f"  {in_words(entry['what']):28} {done}, for {entry['composites']} composites"
        if entry["rate"] is not None:
            line += f", {entry['rate']:.3g} composites per second"
        if entry["damaged"]:
            line += f"; damaged, for details run `synthpipe verify`: {entry['damaged']}"
        if entry["seconds_left"] is not None:
            line += f", {_duration(entry['seconds_left'])} left"
        yield line
    for strategy, entry in found["strategies"].items():
        rejected = ", ".join(f"{count} {VERDICT[reason]}" for reason, count in entry["rejected"].items()) or "none"
        accepted = "" if entry["acceptance"] is None else f", the filter accepts {entry['acceptance']:.1%}"
        sample = "" if entry["judged"] == entry["of"] else f", a sample of {entry['of']}"
        if entry["damaged"]:
            yield f"  {STRATEGY[strategy]}: damaged, for details run `synthpipe verify`: {entry['damaged']}"
            continue
        yield f"  {STRATEGY[strategy]}: {entry['judged']} judged so far{sample}{accepted}; rejected: {rejected}"
    yield from (f"note: {remark}" for remark in found["remarks"])
    yield from (f"  warning: {text}" for text in found["warnings"])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
