"""What is particular to compactions: they are no longer than what goes in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.compact import COMPACT
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import Usage


def bound(text: str = "hi", model: str = "gpt-4o", **fields: Any) -> int | None:
    request = COMPACT.read(json.dumps({"model": model, "input": text, **fields}).encode())
    COMPACT.count(request, TokenCounter())
    COMPACT.forget_prompt(request)
    found = COMPACT.bound(request)
    assert found.default_max == found.least_max
    return found.default_max


def test_as_much_is_reserved_as_goes_in() -> None:
    """At least what may be said of next to nothing; at most what the model can answer."""
    assert bound() == 1_024
    assert bound("word " * 2_000) == 2_008
    assert bound("word " * 20_000) == 16_384


@pytest.mark.parametrize("field", [{"previous_response_id": "r"}, {"conversation": "c"}, {"prompt": {"id": "p"}}])
def test_what_lies_at_the_provider_may_be_of_any_length(field: dict[str, Any]) -> None:
    """So all is reserved that the model can answer."""
    assert bound(**field) == 16_384


def test_its_answer_is_read_as_a_response() -> None:
    """Usage, and what the provider keeps."""
    body = b'{"id":"resp_1","output":[{"id":"cmp_1"}],"usage":{"input_tokens":9,"output_tokens":2}}'
    reading = COMPACT.read_answer(body)
    assert reading is not None
    assert (reading.usage.prompt_tokens, reading.usage.output_tokens) == (9, 2)
    assert COMPACT.created(body) == ("resp_1", "cmp_1")
    assert Usage(9, 2).output_tokens == 2
    with pytest.raises(MissingParameter) as raised:
        COMPACT.read(b'{"model":"m"}')
    assert raised.value.param == "input"
