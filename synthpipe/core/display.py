"""Make untrusted text safe to show or store: without secrets, terminal control codes and spreadsheet formulas."""

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
    """Return a path, a URL or a message without the credentials and signatures of the URLs in it.

    User names and passwords before the host go, and so do the parameters of signed URLs. What is left names the same
    object whenever and by whomever the URL was signed.
    """
    return _URL.sub(_without_secrets, str(text))


def _without_secrets(url: re.Match[str]) -> str:
    path, mark, query = _USER.sub("", url[0]).partition("?")
    query, *fragment = re.split("(?=#)", query, maxsplit=1)
    parameters = re.split("([&;])", query)  # with what is between them
    kept = [each for each in parameters if not _SECRET_KEY.fullmatch(each.partition("=")[0])]
    if kept != parameters:
        query = "&".join(each for each in kept if each not in ("", "&", ";"))
    return "".join([path, mark if query or kept == parameters else "", query, *fragment])


def printable(text: object) -> str:
    """Return a name with what would steer a terminal, or is not Unicode, as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def to_cell(text: str) -> str:
    """Return text as a cell of a CSV: a quote stands before what a spreadsheet would compute."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Return the text that `to_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escaped(name: str) -> str:
    """Return a file's name in Unicode: bytes that are not become escapes, and no two names give the same."""
    if re.search(r"[\ud800-\udfff]|\\ud[89a-f]", name):
        name = name.replace("\\", r"\\")
    return name.encode("utf-8", "backslashreplace").decode()


def file_stem(name: str, most: int = 200) -> str:
    """Return a name of at most `most` bytes for files that are made of a file's: `escaped`, long ones with a digest."""
    data = escaped(name).encode()
    if len(data) <= most:
        return data.decode()
    return f"{data[: most - 17].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"
