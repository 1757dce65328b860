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


@pytest.mark.parametrize(
    ("status", "body", "stands_in"),
    [(404, b"no such path", True), (405, b"", True), (404, b"no gpt-4o-mini", False), (400, b"", False)],
)
def test_our_count_stands_in_for_a_path_that_is_not_there(status: int, body: bytes, stands_in: bool) -> None:
    """What is said of the model stands."""
    answer = INPUT_TOKENS.own_answer(status, body, "gpt-4o-mini", 9)
    if not stands_in:
        assert answer is None
    else:
        assert answer is not None
        assert json.loads(answer) == {"object": "response.input_tokens", "input_tokens": 9}
