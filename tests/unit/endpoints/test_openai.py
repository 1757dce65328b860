"""What chat and completions have in common: who gets the usage of a stream, and how a stream ends at a limit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.openai import OpenAIEndpoint
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.usage import Usage

ENDPOINTS: list[OpenAIEndpoint[Any]] = [CHAT, COMPLETIONS]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n'


def streamed(endpoint: OpenAIEndpoint[Any], **fields: Any) -> Any:
    body = {"model": "gpt-4o", "messages": [], "prompt": "hi", "stream": True, "n": 2, **fields}
    return endpoint.read(json.dumps(body).encode())


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_usage_is_for_those_who_asked(endpoint: OpenAIEndpoint[Any], asks: bool) -> None:
    """We ask for it in any case; in the provider's stream and in an ending of ours it is the client's only then."""
    request = streamed(endpoint, stream_options={"include_usage": asks})
    meter = endpoint.meter(request, NO_SECRET)
    assert meter.feed(USAGE) == (USAGE if asks else b"")
    assert meter.usage.prompt_tokens == 9
    *events, done, rest = endpoint.ending(request, meter, Usage(9, 1)).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    told = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert [choice["finish_reason"] for choice in told[0]["choices"]] == ["length", "length"]
    assert [event["usage"]["total_tokens"] for event in told[1:]] == ([10] if asks else [])
