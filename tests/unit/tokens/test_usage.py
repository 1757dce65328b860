"""A provider's usage, whole, in pieces, and in shapes that nobody promised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.usage import (
    MOST_TOKENS,
    NOTHING,
    PLAIN,
    Details,
    Usage,
    read_usage,
    read_usage_beside_cache,
    read_usage_metadata,
    usage_beside,
)


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


@pytest.mark.parametrize(
    ("read", "told", "usage"),
    [
        (
            read_usage,
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 3, "image_tokens": 1, "video_tokens": 1},
                "completion_tokens_details": {"audio_tokens": 4, "reasoning_tokens": 0},
            },
            Usage(9, 5, 0, 2, details=Details(input_audio=3, input_image=1, input_video=1, output_audio=4)),
        ),
        (
            read_usage,
            {
                "input_tokens": 9,
                "output_tokens": 5,
                "input_token_details": {
                    "cached_tokens": 6,
                    "audio_tokens": 7,
                    "cached_tokens_details": {"audio_tokens": 4, "image_tokens": 1, "text_tokens": 1},
                },
                "output_token_details": {"text_tokens": 1, "audio_tokens": 4},
            },
            Usage(9, 5, 0, 6, details=Details(input_audio=7, cached_audio=4, cached_image=1, output_audio=4)),
        ),
        (
            read_usage,
            {"input_tokens": 9, "output_tokens": 5, "output_tokens_details": {"image_tokens": 5, "text_tokens": 0}},
            Usage(9, 5, details=Details(output_image=5)),
        ),
        (
            read_usage,
            {"prompt_tokens": 9, "prompt_tokens_details": {"audio_tokens": 0}, "cost": "free"},
            Usage(9),
        ),
        (read_usage, {"prompt_tokens": 9, "cost": 0.0000001}, Usage(9, details=Details(told_micro_usd=1))),
        (read_usage, {"prompt_tokens": 9, "cost": 0}, Usage(9, details=Details(told_micro_usd=0))),
        (read_usage, {"prompt_tokens": 9, "cost": {"total_cost": 1}}, Usage(9, details=Details(told_micro_usd=10**6))),
        (
            read_usage_beside_cache,
            {
                "input_tokens": 1,
                "cache_creation_input_tokens": 6,
                "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 2},
            },
            Usage(7, 0, 0, 0, 6, 0, True, Details(written_1h=2)),
        ),
        (
            read_usage_metadata,
            {
                "promptTokenCount": 9,
                "toolUsePromptTokenCount": 2,
                "candidatesTokenCount": 5,
                "cachedContentTokenCount": 3,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}, {"modality": "AUDIO", "tokenCount": 5}],
                "toolUsePromptTokensDetails": [{"modality": "IMAGE", "tokenCount": 2}, "?"],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 5}],
            },
            Usage(11, 5, 0, 3, details=Details(input_audio=5, input_image=2, cached_audio=3, output_image=5)),
        ),
        (
            read_usage_metadata,
            {"prompt_token_count": 9, "prompt_tokens_details": [{"modality": "VIDEO", "token_count": 9}]},
            Usage(9, details=Details(input_video=9)),
        ),
        (read_usage_metadata, {"promptTokenCount": 9, "promptTokensDetails": 7}, Usage(9)),
        (
            read_usage_metadata,
            {"promptTokenCount": 9, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 9}]},
            Usage(9),
        ),
    ],
)
def test_kinds_of_tokens_are_told_apart(read: Any, told: Any, usage: Usage) -> None:
    """As prices ask for them, by each format's own names; where there are none, details are the PLAIN ones."""
    found = read(told)
    assert found == usage
    assert (found.details is PLAIN) == (usage.details == PLAIN)


def test_details_come_in_pieces_and_add_up() -> None:
    """Of one answer the larger figures count; two answers have a told cost where both tell it."""
    one = Usage(9, 5, details=Details(input_audio=3, told_micro_usd=7))
    other = Usage(9, 5, details=Details(input_audio=2, output_image=4))
    assert one.merged(other).details == Details(input_audio=3, output_image=4, told_micro_usd=7)
    assert one.merged(Usage(9)).details == Usage(9).merged(one).details == one.details
    assert one.plus(other) == Usage(18, 10, details=Details(input_audio=5, output_image=4))
    assert one.plus(one).details == Details(input_audio=6, told_micro_usd=14)
    assert Usage(1, 2, 9, 1, 1, 1).plus(Usage(4, 5)) == Usage(5, 13, 0, 1, 1, 1)
    assert Usage(1).plus(Usage(2)).details is PLAIN
