"""The simulator's Gemini, seen by Google's SDK and without: as strict as Google is.

About: `dev/gemini_checks.py`, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import types

from sentinel.dev.gemini import MODELS, is_its
from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from tests.support.client import Answer, request

MODEL = MODELS[2]
TOOL: dict[str, Any] = {
    "functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}}}]
}


def body(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}


@pytest.fixture
def sdk(openai_sim: OpenAISimulator, openai_server: Server) -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=openai_server.url)
    with genai.Client(api_key=openai_sim.api_key, http_options=options) as sdk:
        yield sdk


def send(
    openai_sim: OpenAISimulator,
    openai_server: Server,
    given: Any,
    method: str = "generateContent",
    model: str = MODEL,
    **headers: str,
) -> Answer:
    sent = {"x-goog-api-key": openai_sim.api_key, **headers}
    raw = given if isinstance(given, bytes) else json.dumps(given).encode()
    return request(openai_server.port, "POST", f"/v1beta/models/{model}:{method}", raw, sent)


@pytest.mark.parametrize(
    ("text", "fields", "kind", "tokens", "reason"),
    [
        ("[[tokens=4]]", {}, "text", 4, "STOP"),
        ("[[tokens=90]]", {"generationConfig": {"maxOutputTokens": 5}}, "text", 5, "MAX_TOKENS"),
        ("[[tokens=90 ignores_max]]", {"generation_config": {"max_output_tokens": 5}}, "text", 90, "STOP"),
        ("[[tokens=4 reasoning=6]]", {}, "text", 4, "STOP"),
        ("[[refusal]]", {}, "text", 8, "SAFETY"),
        ("[[tool]]", {"tools": [TOOL]}, "functionCall", 6, "STOP"),
        ("hi", {"tools": TOOL, "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "functionCall", 6, "STOP"),
        ("[[tool tokens=4]]", {"tools": [TOOL], "toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}, "text", 4,
         "STOP"),
        ("[[tool]]", {"tools": [TOOL], "generationConfig": {"maxOutputTokens": 3}}, "functionCall", 3, "MAX_TOKENS"),
    ],
)  # fmt: skip
def test_whole_and_as_a_stream_it_says_the_same(
    openai_sim: OpenAISimulator,
    openai_server: Server,
    text: str,
    fields: dict[str, Any],
    kind: str,
    tokens: int,
    reason: str,
) -> None:
    """With usage that grows, as events and as an array; and it bills what it says."""
    whole = send(openai_sim, openai_server, body(text, **fields)).json
    array = send(openai_sim, openai_server, body(text, **fields), "streamGenerateContent").json
    events = send(openai_sim, openai_server, body(text, **fields), "streamGenerateContent?alt=sse").events
    for said in ([whole], array, events):
        candidates = [each["candidates"][0] for each in said]
        parts = [part for candidate in candidates for part in candidate["content"]["parts"]]
        assert any(kind in part for part in parts)
        assert candidates[-1]["finishReason"] == reason
        assert said[-1]["usageMetadata"]["candidatesTokenCount"] == tokens
    thoughts = whole["usageMetadata"].get("thoughtsTokenCount", 0)
    assert [bill.completion_tokens for bill in openai_sim.billed] == [tokens + thoughts] * 3
    assert {bill.state for bill in openai_sim.billed} == {"complete"}


def test_the_sdk_reads_it(sdk: genai.Client) -> None:
    """Thoughts, several candidates, what a cache had."""
    config = types.GenerateContentConfig(
        candidate_count=2, thinking_config=types.ThinkingConfig(include_thoughts=True), max_output_tokens=50
    )
    answer = sdk.models.generate_content(model=MODEL, contents="[[tokens=3 reasoning=2 cached=1]]", config=config)
    assert answer.candidates is not None
    assert len(answer.candidates) == 2
    assert answer.usage_metadata is not None
    told = answer.usage_metadata
    counts = (told.candidates_token_count, told.thoughts_token_count, told.cached_content_token_count)
    assert counts == (6, 2, 1)
    assert sdk.models.count_tokens(model=MODEL, contents="Say hello").total_tokens == 5


def test_calls_of_gemini_3_are_signed(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """And wanted back so, in the turn that is made now; earlier models know nothing of it."""
    new = "gemini-3-pro-preview"
    asked = body("[[tool]]", tools=[TOOL])
    (part,) = send(openai_sim, openai_server, asked, model=new).json["candidates"][0]["content"]["parts"]
    assert "thoughtSignature" in part
    result = {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {}}}]}
    for model, call, status in ((new, part, 200), (new, {"functionCall": part["functionCall"]}, 400)):
        turn = [*asked["contents"], {"role": "model", "parts": [call]}, result]
        assert send(openai_sim, openai_server, {**asked, "contents": turn}, model=model).status == status
        over = {**asked, "contents": [*turn, *body()["contents"]]}
        assert send(openai_sim, openai_server, over, model=model).status == 200
    assert send(openai_sim, openai_server, {**asked, "contents": turn}).status == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "Expected an object"),
        ({}, "contents is not specified"),
        ({**body(), "max_tokens": 5}, 'Unknown name "maxTokens"'),
        ({"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}, "valid role"),
        ({"contents": [5]}, "Invalid value"),
        ({"contents": [{"parts": []}]}, "must not be empty"),
        ({"contents": [{"parts": [{}]}]}, "oneof"),
        (body(systemInstruction={"parts": []}), "must not be empty"),
        (body(generationConfig={"maxOutputTokens": 0}), "must be positive"),
        (body(generationConfig={"candidateCount": 9}), "candidate count"),
        (body("[[nonsense]]"), "no directive"),
        (body("hi", generationConfig={"responseMimeType": "application/json", "responseSchema": {"type": "NONE"}}),
         "no value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(openai_sim: OpenAISimulator, openai_server: Server, given: Any, message: str) -> None:
    """In Google's words, more or less."""
    answer = send(openai_sim, openai_server, given)
    assert (answer.status, answer.error["type"]) == (400, "INVALID_ARGUMENT")
    assert message in answer.error["message"]


@pytest.mark.parametrize(
    ("headers", "method", "model", "status"),
    [
        ({"x-goog-api-key": ""}, "generateContent", MODEL, 403),
        ({"x-goog-api-key": "wrong"}, "generateContent", MODEL, 400),
        ({"authorization": "Bearer x"}, "generateContent", MODEL, 400),
        ({}, "predict", MODEL, 404),
        ({}, "generateContent", "none", 404),
    ],
)
def test_who_may_not_ask(
    openai_sim: OpenAISimulator, openai_server: Server, headers: dict[str, str], method: str, model: str, status: int
) -> None:
    """One key, in its header, and for what there is."""
    assert send(openai_sim, openai_server, body(), method, model, **headers).status == status


def test_vectors(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """One, many, and none without a content; with usage or without."""
    content = body()["contents"][0]
    one = send(openai_sim, openai_server, {"content": content, "output_dimensionality": 4}, "embedContent").json
    assert (len(one["embedding"]["values"]), one["usageMetadata"]["promptTokenCount"]) == (4, 2)
    many = send(openai_sim, openai_server, {"requests": [{"content": content}] * 2}, "batchEmbedContents").json
    assert len(many["embeddings"]) == 2
    assert send(openai_sim, openai_server, {"requests": []}, "batchEmbedContents").status == 400
    assert send(openai_sim, openai_server, {}, "embedContent").status == 400
    silent = {"content": {"parts": [{"text": "[[no_usage]]"}]}}
    assert "usageMetadata" not in send(openai_sim, openai_server, silent, "embedContent").json


def test_faults_have_googles_shape(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """By order of a test, or of a prompt."""
    openai_sim.faults.set(status=503)
    assert send(openai_sim, openai_server, body()).error["type"] == "UNAVAILABLE"
    openai_sim.faults.clear()
    answer = send(openai_sim, openai_server, body("[[status=429 retry_after=7]]"))
    assert (answer.error["type"], answer.headers["retry-after"]) == ("RESOURCE_EXHAUSTED", "7")
    assert "finishReason" not in str(send(openai_sim, openai_server, body("[[no_done]]"), "streamGenerateContent").json)


def test_its_paths() -> None:
    """Of both versions; those of others are theirs."""
    assert is_its("/v1beta/anything")
    assert is_its(f"/v1/models/{MODEL}:generateContent")
    assert not is_its("/v1/models/x")
