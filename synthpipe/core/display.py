"""Remove secrets, terminal control codes and spreadsheet formulas from untrusted text."""

from __future__ import annotations

import hashlib
import re

_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>`]+")
_USER = re.compile(r"(?<=://)[^/?#]*@")
_SECRET_KEY = re.compile(
    r"""
    .*(sig|token|secret|passw|pwd|credential|auth|policy|session|expires).*
    | x-(amz|goog|oss|ms)-.* | .*api.?key | key | .*access.?key.* | .*key.?pair.* | googleaccessid | awsaccesskeyid
    | s[eprvt] | spr | ss | srt | sip | sdd | sk[teosv] | skoid | sktid  # Azure's shared access signatures
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_secrets(text: object) -> str:
    """Remove credentials and signatures from all URLs in a path or a message.

    User names and passwords before the host are removed, and so are the parameters of signed URLs. Two signed URLs of
    one object give equal text.
    """
    return _URL.sub(_without_secrets, str(text))


def _without_secrets(url: re.Match[str]) -> str:
    path, mark, query = _USER.sub("", url[0]).partition("?")
    query, *fragment = re.split("(?=#)", query, maxsplit=1)
    parameters = re.split("([&;])", query)  # with their separators
    kept = [each for each in parameters if not _SECRET_KEY.fullmatch(each.partition("=")[0])]
    if kept != parameters:
        query = "&".join(each for each in kept if each not in ("", "&", ";"))
    return "".join([path, mark if query or kept == parameters else "", query, *fragment])


def printable(text: object) -> str:
    """Escape control characters and bytes that are not Unicode, so that a terminal can show the text."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def to_cell(text: str) -> str:
    """Return text as a CSV cell. Text that a spreadsheet would compute as a formula gets a quote in front."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Return the text of a CSV cell that `to_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escaped(name: str) -> str:
    """Return a file's name as valid Unicode, with other bytes escaped. Different names stay different."""
    if re.search(r"[\ud800-\udfff]|\\ud[89a-f]", name):
        name = name.replace("\\", r"\\")
    return name.encode("utf-8", "backslashreplace").decode()


def file_stem(name: str, most: int = 200) -> str:
    """Return an `escaped` name of at most `most` bytes. A longer name is cut, and its digest is added."""
    data = escaped(name).encode()
    if len(data) <= most:
        return data.decode()
    return f"{data[: most - 17].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"
