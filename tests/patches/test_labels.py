"""Label sets as text."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from synthpipe.core.errors import CatalogError
from synthpipe.core.taxonomy import Taxonomy, TissueClass
from synthpipe.patches.labels import parse_bracket, parse_cell, parse_names

LUNG = Taxonomy(
    (
        TissueClass("tumour", (0, 64, 128), ("TUM", "tumor")),
        TissueClass("stroma", (64, 128, 0), ("STR",)),
        TissueClass("normal", (243, 152, 0)),
    )
)

FAULTS = {
    "1003370-11223-11698": "no label in brackets",
    "1003370-11223-11698-1, 1, 0]": "no label in brackets",
    "1003370-11223-11698-[1, 1, 0": "'[1, 1, 0' is not closed",
    "[1, 0, 0]-1003370-11223": "'[1, 0, 0]' is not at the end of the name: '-1003370-11223' follows it",
    "1003370-[1, 1, 0] (1)": "not at the end of the name: ' (1)' follows it",
    "1003370-[1, 1, 0]]": "']' follows it",
    "1003370-[]": "'[]' is empty, expected 3 digits",
    "1003370-[ , ]": "'[ , ]' is empty, expected 3 digits",
    "1003370-[1]": "holds 1 digit, expected 3",
    "1003370-[1, 1]": "holds 2 digits, expected 3",
    "1003370-[1001]": "holds 4 digits, expected 3",
    "1003370-[1, 2, 0]": "label holds '2', which is neither 0 nor 1",
    "1003370-[130]": "label holds '3', which is neither 0 nor 1",
    "1003370-[1, -1, 0]": "label holds '-1', which is neither 0 nor 1",
    "1003370-[1.0, 0, 0]": "label holds '1.0', which is neither 0 nor 1",
    "1003370-[True, False, False]": "label holds 'True', which is neither 0 nor 1",
    "1003370-[1, 0, ²]": "label holds '²', which is neither 0 nor 1",
    "1003370-[1; 0; 0]": "label holds '1;', which is neither 0 nor 1",
    "1003370-[__import__('os').getcwd()]": "label holds \"__import__('os').getcwd()\", which is neither 0 nor 1",
    "1003370-[0, 0, 0]": "'[0, 0, 0]' holds zeros only",
    "1003370-[0, 1, 0]-[1, 0, 0]": "there are two labels, '[0, 1, 0]' and '[1, 0, 0]', expected one",
    "1003370-[0 1][1, 0, 0]": "there are two labels, '[0 1]' and '[1, 0, 0]'",
}


@pytest.mark.parametrize(
    ("stem", "count", "classes"),
    [
        ("1003370-11223-11698-[1, 1, 0]", 3, (0, 1)),
        ("1003370-11223-11698-[0,0,1]", 3, (2,)),
        ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1001]", 4, (0, 3)),
        ("1031280-2300-27920-[1 0 0 1]", 4, (0, 3)),
        ("slide[3]-[ 1,0 , 0\t1 ]", 4, (0, 3)),
        ("[10 01]", 4, (0, 3)),
    ],
)
def test_published_spellings(stem: str, count: int, classes: tuple[int, ...]) -> None:
    assert parse_bracket(stem, count) == classes


BLANKS = st.text(alphabet=" ,\t", max_size=3)


@given(st.lists(st.tuples(BLANKS, st.booleans()), min_size=2, max_size=8), st.text(alphabet="[]2ax- é"), BLANKS)
def test_any_mix_of_blanks_and_commas(digits: list[tuple[str, bool]], before: str, last: str) -> None:
    expected = tuple(index for index, (_, occurs) in enumerate(digits) if occurs)
    assume(expected)
    label = "".join(f"{blanks}{int(occurs)}" for blanks, occurs in digits) + last
    assert parse_bracket(f"{before}[{label}]", len(digits)) == expected


@given(st.text(alphabet="[]01 ,29ax-+"))
def test_any_name_gives_classes_or_a_fault(stem: str) -> None:
    try:
        classes = parse_bracket(stem, 3)
    except CatalogError as error:
        assert str(error)
    else:
        assert classes
        assert set(classes) <= {0, 1, 2}
        assert stem.endswith("]")


@pytest.mark.parametrize("stem", FAULTS)
def test_faults_of_brackets(stem: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_bracket(stem, 3)
    assert FAULTS[stem] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("tumour", (0,)),
        ("TUM", (0,)),
        ("normal+tumour", (0, 2)),
        ("tumor ; STR", (0, 1)),
        ("tumour|stroma|normal", (0, 1, 2)),
        (" stroma ", (1,)),
        ("Tumour+str", (0, 1)),
    ],
)
def test_names(text: str, classes: tuple[int, ...]) -> None:
    assert parse_names(text, LUNG) == classes


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the label is empty, expected tumour (or TUM, tumor), stroma"),
        ("  ", "the label is empty"),
        ("tumour+", "'tumour+' has an empty class name"),
        ("+", "'+' has an empty class name"),
        ("tumour+necrosis", "label names 'necrosis', which is not a class, expected tumour (or TUM, tumor), stroma"),
        ("Tumours", "label names 'Tumours', which is not a class (did you mean 'tumour'?"),
        ("tumour,stroma", "label names 'tumour,stroma', which is not a class"),
        ("TUM+tumour", "'TUM+tumour' names the class 'tumour' twice"),
    ],
)
def test_faults_of_names(text: str, fault: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_names(text, LUNG)
    assert fault in str(caught.value)


def test_a_cell_holds_names_or_a_bracket() -> None:
    assert parse_cell("tumour+normal", LUNG) == (0, 2)
    assert parse_cell(" [1, 0, 1] ", LUNG) == (0, 2)
    with pytest.raises(CatalogError, match="holds 2 digits"):
        parse_cell("[1, 0]", LUNG)
    with pytest.raises(CatalogError, match="'101', which is not a class"):
        parse_cell("101", LUNG)
    for cell in ("[0, 1]+[1, 0, 0]", "[a][1, 0, 0]", "[[1, 0, 0]", "[0, 1, 0] [1, 0, 0]"):
        with pytest.raises(CatalogError, match=r"comes before the label '\[1, 0, 0\]', expected only the label"):
            parse_cell(cell, LUNG)
