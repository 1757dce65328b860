"""What is particular to the count of a request's tokens: it costs nothing, and is ours where the provider has none."""

from __future__ import annotations

import json

import pytest

from sentinel.endpoints.count_tokens import COUNT_TOKENS
from sentinel.endpoints.endpoint import UNCHANGED
from sentinel.endpoints.messages import MESSAGES
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter

BODY = b'{"model":"claude-sonnet-5-5","messages":[{"role":"user","content":"hi"}]}'


def test_it_reads_what_a_message_has_but_for_the_output() -> None:
    """A maximum is not needed, and there is no stream; then it is forgotten."""
    request = COUNT_TOKENS.read(BODY)
    assert (request.stream, COUNT_TOKENS.is_free, COUNT_TOKENS.format) == (None, True, "messages")
    assert COUNT_TOKENS.count(request, TokenCounter()) == 8
    COUNT_TOKENS.forget_prompt(request)
    assert request.messages == []
    with pytest.raises(MissingParameter):
        COUNT_TOKENS.read(b'{"model":"m"}')
    with pytest.raises(MissingParameter):
        MESSAGES.read(BODY)


def test_it_is_sent_on_as_it_came_and_has_no_output() -> None:
    """Nothing is reserved."""
    request = COUNT_TOKENS.read(BODY)
    bound = COUNT_TOKENS.bound(request)
    assert (bound.choices, bound.client_max) == (0, 0)
    assert COUNT_TOKENS.changes(request, bound, None) is UNCHANGED
    assert COUNT_TOKENS.changed(BODY, request, UNCHANGED) is BODY


def test_our_own_answer() -> None:
    """As Anthropic's."""
    assert json.loads(COUNT_TOKENS.own_answer(12)) == {"input_tokens": 12}


def test_what_has_a_cost_is_never_answered_by_us() -> None:
    """A refusal of a message stands, and the cost of a count is not asked for."""
    with pytest.raises(NotImplementedError):
        MESSAGES.own_answer(12)
    with pytest.raises(NotImplementedError):
        COUNT_TOKENS.read_answer(b"{}")
