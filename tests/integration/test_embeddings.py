"""POST /v1/embeddings, with the official SDK and without: what reaches the provider, what is admitted, what is booked.

About: `endpoints/embeddings.py`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import EMBEDDINGS as PATH
from tests.support.surface import chat, post

pytestmark = pytest.mark.usefixtures("no_faults")

MODEL = "text-embedding-3-small"


def asked(given: Any = "hello world", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": given, **fields}


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"dimensions": 8}])
async def test_the_sdk_gets_its_vectors(sentinel: SentinelProcess, token: str, form: dict[str, Any]) -> None:
    """In base64, which it asks for by itself, or as numbers; one for each text, of length 1."""
    async with sdk(sentinel, token) as api:
        answer = await api.embeddings.create(model=MODEL, input=["hello world", "hello"], **form)
    assert [len(one.embedding) for one in answer.data] == [form.get("dimensions", 1536)] * 2
    assert all(math.isclose(math.hypot(*one.embedding), 1, rel_tol=1e-3) for one in answer.data)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)


@pytest.mark.parametrize(
    ("given", "tokens"),
    [("hello world", 2), (["hello", "hello world"], 3), ([15339, 1917], 2), ([[15339], [15339, 1917]], 3)],
)
@pytest.mark.parametrize("told", [True, False])
def test_input_is_booked_and_nothing_else(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess, given: Any, tokens: int, told: bool
) -> None:
    """As the provider tells it, else as we have counted it."""
    email = f"embeds-{told}-{type(given).__name__}-{type(given[0]).__name__}@corp.test"
    _, token = stack.user(email)
    usage = b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens) if told else b""
    provider.says(b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AAAA"}]%b}' % usage)
    answer = post(scripted, token, asked(given), PATH)
    assert (answer.status, answer.json["object"]) == (200, "list")
    assert stack.booked(1, email) == {"ai_requests": 1, "ai_input_tokens": tokens, "ai_output_tokens": 0}
    (line,) = scripted.ended(user=email.partition("@")[0])
    assert (line["route"], line["input_tokens"], line["output_tokens"]) == (PATH, tokens, 0)
    assert line["tokens_from"] == ("provider" if told else "count")


def test_a_used_up_output_is_in_nobodys_way_and_used_up_input_is(stack: Stack, sentinel: SentinelProcess) -> None:
    """An embedding has no output."""
    limits, used = {"ai_output_tokens": 10, "ai_input_tokens": 1000}, {"ai_output_tokens": 10}
    _, token = stack.user("no-output@corp.test", limits=limits, used=used)
    assert post(sentinel, token, chat()).is_error(429, "insufficient_quota", "insufficient_quota")
    assert post(sentinel, token, asked(), PATH).status == 200
    _, other = stack.user("no-input@corp.test", limits={"ai_input_tokens": 1})
    refused = post(sentinel, other, asked(), PATH)
    assert refused.is_error(429, "insufficient_quota", "insufficient_quota")
    assert refused.error["details"]["metric"] == "ai_input_tokens"


def test_the_body_reaches_the_provider_as_it_came(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Whatever its fields, also a `stream` that means nothing here."""
    stack.simulators.openai.calls.clear()
    sent = b'{ "model":"text-embedding-3-small" , "input":"hi", "user":"u-1", "stream":true, "dimensions":4}'
    answer = post(sentinel, token, sent, PATH)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert [call.raw for call in stack.simulators.openai.calls if call.path == PATH] == [sent]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": MODEL}, 400, "missing_required_parameter", "input"),
        ({"input": "hi"}, 400, "missing_required_parameter", "model"),
        ({"model": MODEL, "input": 7}, 400, "invalid_type", "input"),
        (b'{"model":"m","input":"a","input":"b"}', 400, "invalid_json", "input"),
    ],
)
def test_what_is_wrong_is_named(
    sentinel: SentinelProcess, token: str, body: Any, status: int, code: str, param: str
) -> None:
    """Before anything is asked or spent."""
    assert post(sentinel, token, body, PATH).is_error(status, code, param=param)


def test_a_refusal_of_the_providers_passes(stack: Stack, sentinel: SentinelProcess) -> None:
    """In its words, and it costs nothing."""
    _, token = stack.user("refused-embeddings@corp.test", limits={"ai_requests": 1})
    answer = post(sentinel, token, asked([]), PATH)
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert post(sentinel, token, asked(), PATH).status == 200
