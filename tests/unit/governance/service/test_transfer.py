"""Files of plans and users, as far as they can be read without a database."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.service.directory import email_key
from sentinel.governance.service.tables import csv_lines, json_text
from sentinel.governance.service.transfer import COLUMNS, ImportMistakes, in_csv, read_entries

LIMIT = st.none() | st.integers(0, 2**53 - 1)
GLOB = st.text("abc-*4", min_size=1, max_size=5).filter(lambda glob: glob not in ("*", "-"))
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5)
PLANS = st.fixed_dictionaries(
    {
        "kind": st.just("plan"),
        "plan": NAME,
        "requests": LIMIT,
        "input_tokens": LIMIT,
        "output_tokens": LIMIT,
        "period": st.sampled_from(["daily", "never"]),
        "models": st.none() | st.lists(GLOB, max_size=3),
    }
)
USERS = st.fixed_dictionaries(
    {
        "kind": st.just("user"),
        "email": NAME.map(lambda name: f"{name}@corp.test"),
        "plan": NAME,
        "name": NAME,
        "team": NAME,
        "external_id": NAME,
        "disabled": st.booleans(),
    }
)


def place(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["kind"], email_key(entry["email"]) if entry["kind"] == "user" else entry["plan"]


ENTRIES = st.lists(PLANS | USERS, max_size=5, unique_by=place)


def mistakes(data: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(ImportMistakes) as caught:
        read_entries(data.encode() if isinstance(data, str) else data)
    return caught.value.mistakes


@given(ENTRIES)
def test_what_is_written_is_read(entries: list[dict[str, Any]]) -> None:
    """In both formats, to the last letter."""
    in_json = "".join(json_text(entry) + "\n" for entry in entries)
    text = "".join(csv_lines(map(in_csv, entries), COLUMNS))
    for data in (in_json, text):
        read = read_entries(data.encode())
        assert [{"kind": entry.kind, **entry.fields} for entry in read] == entries


def test_what_a_line_does_not_say_is_not_there() -> None:
    """So that it stays as it is."""
    data = "kind,plan,requests,email,team\nplan,team,,,\nuser,team,,ana@corp.test,red\n"
    assert [entry.fields for entry in read_entries(data.encode())] == [
        {"plan": "team"},
        {"plan": "team", "email": "ana@corp.test", "team": "red"},
    ]


def test_amounts_and_models_are_written_as_in_commands() -> None:
    """In CSV, that is; `*` is all, `-` none."""
    data = (
        "\ufeffkind,plan,requests,input_tokens,models\r\nplan,a,5k,unlimited,gpt-4o* o3\r\nplan,b,,,*\r\nplan,c,,,-\r\n"
    )
    assert [entry.fields for entry in read_entries(data.encode())] == [
        {"plan": "a", "requests": 5000, "input_tokens": None, "models": ["gpt-4o*", "o3"]},
        {"plan": "b", "models": None},
        {"plan": "c", "models": []},
    ]


def test_each_mistake_has_its_line() -> None:
    """All of them at once."""
    assert mistakes(
        '{"kind":"plan","plan":"a"}\n'
        "\n"
        "{oops\n"
        '{"kind":"team"}\n'
        '{"kind":"user","plan":"a"}\n'
        '{"kind":"user","email":"ana@corp.test","requests":1}\n'
        '{"kind":"plan","plan":"a"}\n'
        '{"kind":"user","email":"a\\u0000@corp.test"}\n'
        '{"kind":"user","email":["a"]}\n'
        '{"kind":"plan","plan":"b","models":"all"}\n'
        '{"kind":"user","email":"bo@corp.test","disabled":"no"}\n'
        '{"kind":"user","email":"bo@corp.test","team":1}\n'
        "[]\n"
    ) == [
        (3, "must be one JSON object, as `export` writes them"),
        (4, "kind must be plan or user"),
        (5, "a user needs `email`"),
        (6, "a user has no 'requests'"),
        (7, "'a' is in line 1 already"),
        (8, "email must be text without control characters"),
        (9, "email must be a text"),
        (10, "models must be a list, or null for all"),
        (11, "disabled must be true or false"),
        (12, "team must be a text"),
        (13, "must be one JSON object, as `export` writes them"),
    ]


def test_lines_of_csv_are_counted_as_an_editor_does() -> None:
    """Also behind a cell of several lines."""
    data = 'kind,email,plan,disabled\nuser,"a\nb",x,\nuser,c@corp.test,x,maybe\nuser,d\n,,,\nuser,"'
    assert [line for line, _ in mistakes(data)] == [7]
    assert mistakes(data.removesuffix('user,"')) == [
        (2, "email must be text without control characters"),
        (4, "disabled must be yes or no"),
        (5, "has 2 cells for 4 columns"),
    ]


def test_files_that_are_something_else() -> None:
    """Told as such."""
    assert mistakes(b"kind,plan\nplan,\xff\n") == [(2, "is not UTF-8")]
    assert "'Kind', 'x': no such column" in mistakes("Kind,x\n")[0][1]
    assert "each once" in mistakes("kind,kind\n")[0][1]
    assert "`kind` at least" in mistakes("plan\n")[0][1]
    assert read_entries(b"") == read_entries(b"kind\n") == []


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f'kind,plan,models\n"{text}'.encode()))
def test_any_bytes_are_entries_or_mistakes(data: bytes) -> None:
    """Never another error."""
    told: list[str] = []
    try:
        told = [entry.kind for entry in read_entries(data)]
    except ImportMistakes as error:
        told = error.lines()
    assert all(told)


def test_the_first_of_many_mistakes_are_told() -> None:
    """And how many more there are."""
    error = ImportMistakes([(line, "wrong") for line in range(30, 0, -1)])
    assert error.lines()[0] == "line 1: wrong"
    assert error.lines()[-1] == "and 10 more"
