"""What strangers' text may not do where it is shown or stored."""

from __future__ import annotations

import pytest

from synthpipe.core.display import escaped, file_stem, from_cell, printable, to_cell, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "http://alice:PASSWORD@host/a.png?X-Amz-Signature=ab&X-Amz-Date=3&versionId=7",
            "http://host/a.png?versionId=7",
        ),
        ("https://host/a.png?sv=2023&se=2026-01-01&sp=r&sig=a%2Fb", "https://host/a.png"),
        (
            "https://storage.googleapis.com/b/a?GoogleAccessId=x&Expires=1&Signature=y",
            "https://storage.googleapis.com/b/a",
        ),
        ("http://token@host/", "http://host/"),
        ("http://al@ice:p@ss@host/a", "http://host/a"),
        ("403, URL('http://host/a?X-Amz-Signature=1'); what now?", "403, URL('http://host/a'); what now?"),
        ("http://host/a?id=3&access_token=5#page", "http://host/a?id=3#page"),
        ("simplecache::http://u:p@host/a", "simplecache::http://host/a"),
    ],
)
def test_credentials_and_signatures_are_not_shown(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    "text",
    ["/data/a?key=1.png", "s3://bucket/what?", "s3://bucket/a?b;c", "http://host/?a=1&&b=2", "see https://host; then"],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


def test_a_renewed_signature_names_the_same_object() -> None:
    first, second = (f"https://host/a?X-Amz-Signature={each}&part=2" for each in ("aa", "bb"))
    assert without_secrets(first) == without_secrets(second) == "https://host/a?part=2"


def test_a_terminal_is_not_steered() -> None:
    assert printable("a\x1b[2Jb\udcff\n") == "a\\x1b[2Jb\\udcff\\n"


@pytest.mark.parametrize("text", ["=1+1", "@x", "+1", "-1", "\t=1", "'=1", "''@", "'plain", "plain", "", "a=b"])
def test_cells_are_no_formulas_and_give_their_text_back(text: str) -> None:
    assert to_cell(text)[:1] not in tuple("=+-@\t\r")
    assert from_cell(to_cell(text)) == text


def test_names_in_unicode_stay_apart() -> None:
    names = ["a", "ä", "a\\b", "a\udcff", "a\\udcff", "a\\\udcff", "a\\\\udcff", "a\\\\\\udcff", "a\\\\\udcff"]
    found = [escaped(name) for name in names]
    assert len(set(found)) == len(names) and found[:4] == ["a", "ä", "a\\b", "a\\udcff"]
    assert [name.encode() for name in found]


def test_names_of_files_that_are_made_are_short() -> None:
    long = ["\udcff" * 120, "\udcff" * 121, "ä" * 125]
    found = [file_stem(name) for name in long]
    assert len(set(found)) == 3 and all(len(name.encode()) <= 200 for name in found)
    assert file_stem("x" * 200) == "x" * 200
