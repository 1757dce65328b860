"""What is particular to moderations: they cost one request."""

from __future__ import annotations

import pytest

from sentinel.endpoints.endpoint import NO_OUTPUT
from sentinel.endpoints.moderations import MODERATIONS
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import NOTHING, Usage


@pytest.mark.parametrize("given", [b'"hi"', b'["a","b"]', b'[{"type":"text","text":"a"}]'])
def test_nothing_is_counted(given: bytes) -> None:
    """Whatever it is; nothing of it is kept."""
    request = MODERATIONS.read(b'{"input":%b}' % given)
    assert (request.model, bytes(request.input)) == ("omni-moderation-latest", b"")
    assert MODERATIONS.count(request, TokenCounter()) == 0
    assert MODERATIONS.bound(request) is NO_OUTPUT
    MODERATIONS.forget_prompt(request)
    assert MODERATIONS.read(b'{"model":"own","input":1}').model == "own"


@pytest.mark.parametrize("sent", [b"{}", b'{"input":null}'])
def test_an_input_is_needed(sent: bytes) -> None:
    """The error names it."""
    with pytest.raises(MissingParameter) as raised:
        MODERATIONS.read(sent)
    assert raised.value.param == "input"


def test_usage_counts_where_it_is_told() -> None:
    """Results are enough for the request to be spent; an error costs nothing."""
    for body, usage, is_generated in (
        (b'{"results":[]}', NOTHING, True),
        (b'{"results":[],"usage":{"prompt_tokens":4}}', Usage(4), True),
        (b'{"error":{"message":"no"}}', NOTHING, False),
    ):
        reading = MODERATIONS.read_answer(body)
        assert reading is not None
        assert (reading.usage, reading.is_generated) == (usage, is_generated)
    assert MODERATIONS.read_answer(b"nonsense") is None
