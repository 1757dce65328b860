"""A provider's usage, whole, in pieces, and in shapes that nobody promised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.usage import MOST_TOKENS, NOTHING, Usage, read_usage, usage_beside


def told(prompt: Any, completion: Any, total: Any = None) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


@pytest.mark.parametrize("odd", [None, "17", -1, True, 1.5, [17], {"n": 17}, MOST_TOKENS + 1, 10**400])
def test_a_field_that_does_not_fit_costs_only_itself(odd: Any) -> None:
    """The others are read; what is no number of tokens tells nothing."""
    assert read_usage(told(21, odd)) == Usage(21)
    assert read_usage(told(odd, 17)) == Usage(0, 17)
    assert read_usage({**told(21, 17), "prompt_tokens_details": odd}) == Usage(21, 17)
    assert read_usage({**told(21, 17), "prompt_tokens_details": {"cached_tokens": odd}}) == Usage(21, 17)


@pytest.mark.parametrize("odd", [None, [], "usage", 7, True])
def test_what_is_no_usage_tells_nothing(odd: Any) -> None:
    """Whatever stands in its place."""
    assert read_usage(odd) == NOTHING


def test_whole_numbers_may_be_floats() -> None:
    """JSON has one kind of number."""
    assert read_usage(told(21.0, 17.0)) == Usage(21, 17)


def test_details() -> None:
    """Cached, written and reasoning tokens, also by DeepSeek's name."""
    details = {
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 8},
    }
    assert read_usage({**told(21, 17, 38), **details}) == Usage(21, 17, 38, 5, 3, 8)
    assert read_usage({**told(21, 17), "prompt_cache_hit_tokens": 4}).cached_tokens == 4


def test_names_of_the_responses_api() -> None:
    """Some providers use them in a chat; where both are told, those of the chat count."""
    details = {"input_tokens_details": {"cached_tokens": 5}, "output_tokens_details": {"reasoning_tokens": 8}}
    others = {"input_tokens": 21, "output_tokens": 17}
    assert read_usage({**others, "total_tokens": 38, **details}) == Usage(21, 17, 38, 5, 0, 8)
    assert read_usage({**told(0, None), **others}) == Usage(21, 17)
    assert read_usage({**told(20, 16), **others}) == Usage(20, 16)


@pytest.mark.parametrize(
    ("usage", "output"),
    [
        (Usage(32, 9, 135), 103),  # Reasoning is in the total alone.
        (Usage(21, 17, 38), 17),
        (Usage(21, 17, 5), 17),
        (Usage(21, 0, 21), 0),
        (Usage(0, 17, 38), 17),  # Nobody knows what of the total is input.
        (Usage(21, 17, 38, reasoning_tokens=90), 17),  # They are part of the 17, or of no total.
    ],
)
def test_output_is_what_the_total_leaves(usage: Usage, output: int) -> None:
    """Reasoning outside of completion_tokens is found in the total, and never added on top."""
    assert usage.output_tokens == output


def test_where_providers_put_it() -> None:
    """Groq has it in `x_groq`, Moonshot in the choices."""
    assert usage_beside(None, {"id": "r", "usage": told(21, 17)}, []) == Usage(21, 17)
    assert usage_beside(None, 7, [None, told(21, 16), told(21, 17)]) == Usage(21, 17)


usages = st.builds(Usage, *[st.integers(0, 100)] * 6)


@given(usages, usages, usages)
def test_pieces_may_come_in_any_order(a: Usage, b: Usage, c: Usage) -> None:
    """Larger numbers win, and nothing is taken back."""
    assert a.merged(b).merged(c) == c.merged(b.merged(a))
    assert a.merged(b).merged(a) == a.merged(b)
    assert a.merged(NOTHING) == a
