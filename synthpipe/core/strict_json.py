"""Read JSON from untrusted files."""

from __future__ import annotations

import json
from typing import Any


def parse_json(data: bytes | str) -> Any:
    """Read JSON from an untrusted source.

    Raises
    ------
    ValueError
        The data is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
