"""Translated requests, as simulators of the providers take and answer them over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from sentinel.dev.simulators import Simulators, start_simulators
from sentinel.proxy.translate import Translator
from sentinel.proxy.translation.pair import Translation
from tests.support.client import Answer, request
from tests.support.translations import completion_of, message_of, response_of, told

MODELS = {"messages": "claude-haiku-5-5", "chat": "gpt-4o-mini", "gemini": "gemini-2.5-flash"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Tells the weather", "parameters": SCHEMA}
TOOLS: dict[str, Any] = {
    "chat": {"type": "function", "function": FUNCTION},
    "messages": {"name": "weather", "description": "Tells the weather", "input_schema": SCHEMA},
    "responses": {"type": "function", **FUNCTION},
}
PAIRS = pytest.mark.parametrize(
    "pair", [("chat", "messages"), ("messages", "chat"), ("responses", "chat"), ("chat", "gemini")], ids="->".join
)
EACH_WAY = pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    with start_simulators() as simulators:
        yield simulators


def translation(pair: tuple[str, str], prompt: str, *, streams: bool, tools: bool = False) -> Translation:
    found = Translator.of(*pair)
    assert found is not None
    turns = [{"role": "user", "content": prompt}]
    body: dict[str, Any] = {"model": MODELS[pair[1]], "stream": streams}
    body |= {"input": turns} if pair[0] == "responses" else {"messages": turns}
    body |= {"max_tokens": 100} if pair[0] == "messages" else {}
    body |= {"stream_options": {"include_usage": True}} if pair[0] == "chat" and streams else {}
    body |= {"tools": [TOOLS[pair[0]]]} if tools else {}
    return found.request(json.dumps(body).encode(), 1)


def answered(simulators: Simulators, translated: Translation) -> Answer:
    """What the provider says to it."""
    address = urlsplit(simulators.openai_url)
    assert address.port is not None
    path = translated.path.decode()
    key = simulators.openai_key
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    headers |= {"x-goog-api-key": key} if "gemini" in path else {"authorization": f"Bearer {key}"}
    target = path if "gemini" in path else address.path + path
    return request(address.port, "POST", target, translated.body, headers)


def seen(pair: tuple[str, str], out: bytes, *, streams: bool) -> tuple[str, list[tuple[str, Any]], str, int]:
    """What the client's SDK makes of it: the text, the calls, why it ended, and the output tokens."""
    if pair[0] == "responses":
        response = response_of(out) if streams else Response.model_validate_json(out, strict=True)
        calls = [(item.name, json.loads(item.arguments)) for item in response.output if item.type == "function_call"]
        assert response.usage is not None
        return response.output_text, calls, str(response.status), response.usage.output_tokens
    if pair[0] == "messages":
        message = message_of(out) if streams else Message.model_validate_json(out, strict=True)
        texts = "".join(block.text for block in message.content if block.type == "text")
        calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
        return texts, calls, str(message.stop_reason), message.usage.output_tokens
    completion = completion_of(out) if streams else ChatCompletion.model_validate_json(out, strict=True)
    choice = completion.choices[0]
    functions = [call.function for call in choice.message.tool_calls or [] if call.type == "function"]
    calls = [(function.name, json.loads(function.arguments)) for function in functions]
    assert completion.usage is not None
    return choice.message.content or "", calls, choice.finish_reason, completion.usage.completion_tokens


def exchanged(
    simulators: Simulators, pair: tuple[str, str], prompt: str, *, streams: bool, tools: bool = False
) -> tuple[str, list[tuple[str, Any]], str, int]:
    translated = translation(pair, prompt, streams=streams, tools=tools)
    answer = answered(simulators, translated)
    assert answer.status == 200, answer.body
    out = told(translated.stream(5), answer.body) if streams else translated.answer(200, answer.body)
    return seen(pair, out, streams=streams)


@PAIRS
@EACH_WAY
def test_a_text(simulators: Simulators, pair: tuple[str, str], *, streams: bool) -> None:
    """All of its words, and its tokens."""
    text, calls, ended, tokens = exchanged(simulators, pair, "[[tokens=7]]", streams=streams)
    assert (len(text.split()), calls, tokens) == (7, [], 7)
    assert ended in ("stop", "end_turn", "completed")


@PAIRS
@EACH_WAY
def test_a_call(simulators: Simulators, pair: tuple[str, str], *, streams: bool) -> None:
    """Of the tool that was offered, with arguments of its schema."""
    _, calls, ended, _ = exchanged(simulators, pair, "[[tool]]", streams=streams, tools=True)
    ((name, arguments),) = calls
    assert (name, list(arguments)) == ("weather", ["city"])
    assert ended in ("tool_calls", "tool_use", "completed")


@PAIRS
def test_a_refusal(simulators: Simulators, pair: tuple[str, str]) -> None:
    """In the client's shape, with the provider's words."""
    translated = translation(pair, "[[status=400]]", streams=False)
    answer = answered(simulators, translated)
    assert answer.status == 400
    error = json.loads(translated.answer(400, answer.body))["error"]
    assert error["message"] == json.loads(answer.body)["error"]["message"]
    assert error["type"] == "invalid_request_error"
