"""What the arguments of `sentinel governance` may be, and what is said if they are not."""

from __future__ import annotations

import argparse
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.service.arguments import (
    add_commands,
    read_amount,
    read_day,
    read_duration,
    read_models,
    read_text,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("500", 500),
        ("1000", 1000),
        ("1_000_000", 1_000_000),
        ("5k", 5_000),
        ("10M", 10_000_000),
        ("2g", 2_000_000_000),
        ("9007199254740991", 2**53 - 1),
        ("unlimited", None),
        ("Unlimited", None),
    ],
)
def test_amounts(text: str, amount: int | None) -> None:
    """Numbers, with a word for thousands, millions and milliards."""
    assert read_amount(text) == amount


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "1,000", "k", "1kk", "1__0", "_1", "1_", "٣", "1e3", "9" * 5000, " 1"]
)
def test_what_is_no_amount(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="must be a number"):
        read_amount(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("1s", 1_000), ("2m", 120_000), ("12h", 43_200_000), ("90d", 7_776_000_000)]
)
def test_durations(text: str, milliseconds: int) -> None:
    """A number and a unit."""
    assert read_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "-1d", "1w", "1.5h", "36501d", "999999999999d", "٣d"])
def test_what_is_no_duration(text: str) -> None:
    """Nor what no calendar has."""
    with pytest.raises(ValueError, match="90d"):
        read_duration(text)


def test_days() -> None:
    """One spelling."""
    assert read_day("2026-02-28") == date(2026, 2, 28)
    for text in ("2026-02-30", "20260228", "2026-W09-6", "yesterday", "", "2026-2-3", "٢٠٢٦-٠٢-٢٨"):
        with pytest.raises(ValueError, match="must be a day"):
            read_day(text)


def test_models() -> None:
    """A list; `*` in it is all, `-` alone is none, and nothing at all is a mistake: a variable may not be set."""
    assert read_models(["gpt-4o*", " claude-* ", ""]) == ("gpt-4o*", "claude-*")
    assert read_models(["gpt-4o", "*"]) is None
    assert read_models(["-"]) == ()
    with pytest.raises(ValueError, match="must be names"):
        read_models(["", " "])


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\x00", "\x7f", "\udcff"])
def test_what_is_no_text(text: str) -> None:
    """What a terminal would obey, and what no database takes."""
    with pytest.raises(ValueError, match="must be text"):
        read_text(text)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_commands(parser)
    return parser.parse_args(words)


def test_what_is_not_given_is_not_there() -> None:
    """So that it stays as it is."""
    given_ = vars(parse("plan", "set", "team", "--requests", "unlimited"))
    assert given_["requests"] is None
    assert given_.keys().isdisjoint({"input_tokens", "output_tokens", "period", "models"})
    assert (given_["operation"], given_["name"]) == ("plan set", "team")


def test_half_a_command_has_its_help() -> None:
    """`sentinel governance plan` is none, and its help tells which there are."""
    assert parse().operation is None
    assert parse("plan").operation is None
    assert "delete" in parse("plan").of.format_help()


@given(st.lists(st.text(max_size=8) | st.sampled_from(["plan", "set", "--requests", "user", "add", "--json", "--"])))
def test_any_arguments_are_a_command_or_wrong_use(words: list[str]) -> None:
    """Never a traceback."""
    status: object = 0
    try:
        parse(*words)
    except SystemExit as error:
        status = error.code
    assert status in (0, 2)
