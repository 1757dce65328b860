"""What is particular to the count of a response's input: it is free, and our own count may stand in."""

from __future__ import annotations

import json

import pytest

from sentinel.endpoints.endpoint import NO_OUTPUT
from sentinel.endpoints.input_tokens import INPUT_TOKENS
from sentinel.tokens.counter import TokenCounter

BODY = b'{"model":"gpt-4o-mini","input":"Say hello"}'


def test_it_is_counted_as_a_response_is_and_forgotten() -> None:
    """Without any output."""
    request = INPUT_TOKENS.read(BODY)
    assert INPUT_TOKENS.count(request, TokenCounter()) == 9
    assert INPUT_TOKENS.bound(request) is NO_OUTPUT
    INPUT_TOKENS.forget_prompt(request)
    assert request.chat.messages == []
    assert INPUT_TOKENS.is_free
    with pytest.raises(NotImplementedError):
        INPUT_TOKENS.read_answer(b"{}")


def test_our_own_answer() -> None:
    """As OpenAI's."""
    assert json.loads(INPUT_TOKENS.own_answer(9)) == {"object": "response.input_tokens", "input_tokens": 9}
