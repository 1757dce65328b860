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


@pytest.mark.parametrize(
    ("status", "body", "is_ours"),
    [
        (404, b'{"detail":"Not Found"}', True),
        (405, b"", True),
        (404, b'{"type":"error","error":{"type":"not_found_error","message":"model: claude-0"}}', False),
        (400, b"", False),
        (500, b"", False),
    ],
)
def test_where_the_provider_has_no_such_path_the_count_is_ours(status: int, body: bytes, is_ours: bool) -> None:
    """A model that it does not know is another matter."""
    own = COUNT_TOKENS.own_answer(status, body, "claude-0", 12)
    assert (None if own is None else json.loads(own)) == ({"input_tokens": 12} if is_ours else None)


def test_what_has_a_cost_is_never_answered_by_us() -> None:
    """A refusal of a message stands, and the cost of a count is not asked for."""
    assert MESSAGES.own_answer(404, b"", "m", 12) is None
    with pytest.raises(NotImplementedError):
        COUNT_TOKENS.read_answer(b"{}")
