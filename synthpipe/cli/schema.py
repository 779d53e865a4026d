"""`synthpipe schema`: print the JSON schema of pipeline files."""

from __future__ import annotations

import json

import click

from synthpipe.cli.output import say
from synthpipe.config.pipeline import json_schema
from synthpipe.config.pipeline_page import page


@click.command()
@click.option("--markdown", is_flag=True, help="Print docs/pipeline-file.md, a table of all keys, instead.")
def schema(markdown: bool) -> None:
    """Print the JSON schema of pipeline files.

    Editors can use the schema to complete and check pipeline files.

    \b
    Examples:
      synthpipe schema > pipeline.schema.json
      synthpipe schema --markdown > docs/pipeline-file.md
    """
    say(page().rstrip("\n") if markdown else json.dumps(json_schema(), indent=2))
