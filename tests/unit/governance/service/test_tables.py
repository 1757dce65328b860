"""Tables, records, CSV and JSON, as commands write them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.service.tables import csv_lines, json_array, json_text, record, shown, table, usd

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_columns_stand_below_one_another() -> None:
    """Numbers to the right, sums below a rule, and no space at the end of a line."""
    rows = [{"model": "gpt-4o", "input_tokens": 5}, {"model": "o3", "input_tokens": 12_345_678_901_234}]
    assert table(rows, ("model", "input_tokens"), ["input_tokens"], {"model": "sum", "input_tokens": 7}) == (
        "MODEL     INPUT TOKENS\n"
        "gpt-4o               5\n"
        "o3      12345678901234\n"
        "------  --------------\n"
        "sum                  7\n"
    )


def test_wide_letters_take_two_columns() -> None:
    """And combining ones none."""
    rows = [{"a": "東京", "b": 1}, {"a": "e\u0301", "b": 2}, {"a": "abcd", "b": 3}]
    assert table(rows, ("a", "b")) == "A     B\n東京  1\ne\u0301     2\nabcd  3\n"


def test_a_record_has_a_line_for_each_field() -> None:
    """None is a dash."""
    assert record({"id": "x", "external_id": None, "models": ("a", "b"), "disabled": True}) == (
        "id           x\nexternal id  -\nmodels       a, b\ndisabled     yes\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ((), "-"),
        (False, "no"),
        (0, "0"),
        ("ünï@exämple.test", "ünï@exämple.test"),
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egpj", "\\u202egpj"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_people_see(value: Any, text: str) -> None:
    """Any letter, and nothing that a terminal obeys."""
    assert shown(value) == text


@given(st.lists(st.fixed_dictionaries({"user": TEXT, "requests": st.integers(0, 2**63)}), max_size=5))
def test_one_json_document(rows: list[dict[str, Any]]) -> None:
    """A line for each row; no letter in it moves the cursor."""
    text = "".join(json_array(rows))
    assert json.loads(text) == rows
    assert len(text.splitlines()) == (len(rows) + 2 if rows else 1)


@given(TEXT)
def test_json_is_exact(text: str) -> None:
    """Whatever is escaped for a terminal."""
    assert json.loads(json_text({"a": text})) == {"a": text}


@given(st.lists(st.tuples(TEXT.filter(lambda text: "\r" not in text), st.integers(0, 2**63)), max_size=5))
def test_csv_is_exact(rows: list[tuple[str, int]]) -> None:
    """With a heading, even of nothing."""
    text = "".join(csv_lines(({"user": user, "requests": count} for user, count in rows), ("user", "requests")))
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["user", "requests"], *([user, str(count)] for user, count in rows)]


def test_cost_is_an_exact_decimal() -> None:
    """Nothing was told: none."""
    assert [usd(micro) for micro in (0, 1, 1_500_000, 10**18 + 1)] == [
        None,
        "0.000001",
        "1.500000",
        "1000000000000.000001",
    ]
