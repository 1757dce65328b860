"""Which models the globs of a plan match."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.model_globs import is_allowed, matches, shared


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o", True),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o*", "GPT-4o", False),
        ("*", "", True),
        ("*", "anything/at:all\n", True),
        ("", "", True),
        ("", "x", False),
        ("*-mini", "gpt-4o-mini", True),
        ("*-mini", "gpt-4o-mini-2024", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "abbc", True),
        ("a*b*c", "acb", False),
        ("**", "x", True),
        ("gpt-?o", "gpt-4o", False),
        ("gpt-[4]o", "gpt-4o", False),
        ("gpt.4o", "gpt-4o", False),
    ],
)
def test_a_glob(glob: str, name: str, expected: bool) -> None:
    """`*` alone is special, and case counts."""
    assert matches(glob, name) is expected


@given(glob=st.text("ab*", max_size=12), name=st.text("ab", max_size=20))
def test_a_glob_means_what_a_regular_expression_would(glob: str, name: str) -> None:
    """With `.*` for each star."""
    pattern = ".*".join(map(re.escape, glob.split("*")))
    assert matches(glob, name) is bool(re.fullmatch(pattern, name, re.DOTALL))


def test_no_glob_takes_long() -> None:
    """Also one that a regular expression would try in more ways than there are atoms."""
    began = time.process_time()
    for _ in range(100):
        assert not matches("a*" * 128 + "b", "a" * 256)
    assert time.process_time() - began < 1


def test_one_of_several() -> None:
    """An empty list has none; a name that is too long is none of any."""
    assert is_allowed(("o3", "gpt-4o*"), "gpt-4o-mini")
    assert not is_allowed(("o3", "gpt-4o*"), "o3-mini")
    assert not is_allowed((), "o3")
    assert is_allowed(("*",), "m" * 256)
    assert not is_allowed(("*",), "m" * 257)


def test_the_globs_of_a_plan_are_there_once() -> None:
    """Whoever has it."""
    one, other = (tuple(f"gpt-{name}" for name in ("4o*", "5")) for _ in range(2))
    assert shared(one) is shared(other)
