"""The simulator's messages, seen by Anthropic's SDK and without: as strict as Anthropic is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from sentinel.dev.messages import COUNT_PATH, PATH
from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from tests.support.client import Answer, ask

TURNS: list[Any] = [{"role": "user", "content": "Say hello"}]
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}

FORM = {"type": "json_schema", "schema": {"type": "object", "properties": {"people": {"type": "integer"}}}}


class City(BaseModel):
    name: str
    people: int


def body(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    given = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **fields}
    return {name: value for name, value in given.items() if value is not ...}


@pytest.fixture
def sdk(openai_sim: OpenAISimulator, openai_server: Server) -> Iterator[Any]:
    # As Sentinel does, it takes a bearer token.
    with anthropic.Anthropic(auth_token=openai_sim.api_key, base_url=openai_server.url, max_retries=0) as sdk:
        yield sdk


def send(openai_sim: OpenAISimulator, openai_server: Server, given: Any, path: str = PATH, **headers: str) -> Answer:
    sent = {"Authorization": f"Bearer {openai_sim.api_key}", "anthropic-version": "2023-06-01", **headers}
    return ask("POST", openai_server.url + path, given, sent)


@pytest.mark.parametrize(
    ("text", "fields", "kinds", "tokens", "reason"),
    [
        ("[[tokens=4]]", {}, ["text"], 4, "end_turn"),
        ("[[tokens=90]]", {}, ["text"], 50, "max_tokens"),
        ("[[tokens=90 ignores_max]]", {}, ["text"], 90, "end_turn"),
        ("[[tokens=4 reasoning=6]]", {}, ["thinking", "text"], 10, "end_turn"),
        ("[[tokens=4 reasoning=60]]", {}, ["thinking"], 50, "max_tokens"),
        ("[[refusal]]", {}, ["text"], 8, "refusal"),
        ("[[tool]]", {"tools": [TOOL]}, ["tool_use"], 6, "tool_use"),
        ("hi", {"tools": [TOOL], "tool_choice": {"type": "any"}}, ["tool_use"], 6, "tool_use"),
        ("hi", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, ["tool_use"], 6, "tool_use"),
        ("[[tool tokens=4]]", {"tools": [TOOL], "tool_choice": {"type": "none"}}, ["text"], 4, "end_turn"),
        ("[[tool]]", {"tools": [TOOL], "max_tokens": 3}, ["tool_use"], 3, "max_tokens"),
    ],
)
def test_whole_and_as_a_stream_it_says_the_same(
    openai_sim: OpenAISimulator,
    sdk: Any,
    text: str,
    fields: dict[str, Any],
    kinds: list[str],
    tokens: int,
    reason: str,
) -> None:
    """And bills what it tells."""
    given = body(text, **fields)
    whole = sdk.messages.create(**given)
    with sdk.messages.stream(**given) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert [block.type for block in message.content] == kinds
        assert (message.usage.output_tokens, message.stop_reason) == (tokens, reason)
    if whole.content[-1].type == "text":
        assert whole.content[-1].text == streamed.content[-1].text
    bills = [(bill.prompt_tokens, bill.completion_tokens, bill.state) for bill in openai_sim.billed]
    assert bills == [(whole.usage.input_tokens, tokens, "complete")] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (body(model=...), "model: Field required"),
        (body(model=5), "model: Input should be a valid string"),
        (body(max_tokens=...), "max_tokens: Field required"),
        (body(max_tokens="5"), "max_tokens: Input should be a valid integer"),
        (body(max_tokens=0), "max_tokens: must be greater"),
        (body(stream=1), "stream: Input"),
        (body(stream_options={}), "stream_options: Extra inputs are not permitted"),
        (body(messages=...), "messages: Field required"),
        (body(messages={}), "messages: Input"),
        (body(messages=[]), "messages: at least one"),
        (body(messages=[5]), "messages.0: Input"),
        (body(messages=[{"role": "system", "content": "a"}]), "messages.0.role: Input"),
        (body(messages=[{"role": "user"}]), "messages.0.content: Input"),
        (body(messages=[{"role": "user", "content": ""}]), "messages.0: all messages"),
        (body(messages=[{"role": "user", "content": [{"type": "tomorrow"}]}]), "messages.0.content.0: Input tag"),
        (body(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages.0.content.0.text.text: Field"),
        (body(tools={}), "tools: Input"),
        (body(tools=[{}]), "tools.0.name: Field required"),
        (body(tools=[{"name": "f"}]), "tools.0.custom.input_schema: Field required"),
        (body("[[tool]]", tools=[{"name": "f", "input_schema": {"enum": []}}]), "tools.0.input_schema: JSON schema"),
        (body(tool_choice={"type": []}), "tool_choice.type: Input"),
        (body(thinking={"type": "on"}), "thinking.type: Input"),
        (body(thinking={"type": "enabled", "budget_tokens": 5}), "thinking.enabled.budget_tokens: Input"),
        (body(thinking={"type": "enabled", "budget_tokens": 1024}), "max_tokens: must be greater than"),
        (body("[[nonsense]]"), "no directive"),
        ([], "Input should be an object"),
    ],
)
def test_what_it_refuses(openai_sim: OpenAISimulator, openai_server: Server, given: Any, message: str) -> None:
    """In Anthropic's shape, and the field first."""
    answer = send(openai_sim, openai_server, given)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.error["message"].startswith(message)


def test_structured_outputs(sdk: anthropic.Anthropic, openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """`parse` gives an object of the model; a form that nothing fits is refused; a refusal has no form."""
    asked: dict[str, Any] = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": TURNS}
    assert sdk.messages.parse(**asked, output_format=City).parsed_output == City(name="Paris", people=7)
    for field in ({"output_format": FORM}, {"output_config": {"format": FORM}}):
        answer = send(openai_sim, openai_server, body(**field)).json
        assert (answer["content"][0]["text"], answer["usage"]["output_tokens"]) == ('{"people":7}', 5)
    refused = send(openai_sim, openai_server, body(output_format={"type": "json_schema", "schema": {"enum": []}}))
    assert refused.error["message"].startswith("output_config.format.schema: JSON schema is invalid")
    assert send(openai_sim, openai_server, body("[[refusal]]", output_format=FORM)).json["stop_reason"] == "refusal"


def test_what_the_system_says_in_between(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """It is taken from those who ask for that version."""
    given = body(messages=[*TURNS, {"role": "system", "content": "Be brief"}])
    assert send(openai_sim, openai_server, given).status == 400
    beta = {"anthropic-beta": "effort-2025-11-24,mid-conversation-tool-changes-2026-07-01"}
    assert send(openai_sim, openai_server, given, **beta).status == 200


def test_thinking_that_is_off_or_adaptive_has_no_budget(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """So none is asked for."""
    for kind in ("disabled", "adaptive"):
        assert send(openai_sim, openai_server, body(thinking={"type": kind})).status == 200


def test_statuses_and_a_count(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """Ordered ones come in Anthropic's shape; the count takes no field of an answer."""
    answer = send(openai_sim, openai_server, body("[[status=529 retry_after=3]]"))
    assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (529, "overloaded_error", "3")
    assert send(openai_sim, openai_server, body(model="claude-0")).error["type"] == "not_found_error"
    assert send(openai_sim, openai_server, body(), Authorization="Bearer x").error["type"] == "authentication_error"
    counted = {"model": "claude-haiku-5-5", "messages": TURNS}
    assert send(openai_sim, openai_server, counted, COUNT_PATH).json == {"input_tokens": 8}
    assert send(openai_sim, openai_server, body(), COUNT_PATH).status == 400
    openai_sim.faults.set(status=503)
    assert send(openai_sim, openai_server, body()).error["type"] == "api_error"


def test_a_version_is_required(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """As Anthropic requires it."""
    sent = {"Authorization": f"Bearer {openai_sim.api_key}"}
    answer = ask("POST", openai_server.url + PATH, body(), sent)
    assert answer.error["message"].startswith("anthropic-version")


def test_the_key_in_anthropics_header(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """Is taken as a bearer's is; a wrong one is not."""
    for key, status in ((openai_sim.api_key, 200), ("wrong", 401)):
        sent = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        assert ask("POST", openai_server.url + PATH, body(), sent).status == status


def test_a_broken_stream(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """Usage, its last event, and events that are none, as ordered."""
    events = send(openai_sim, openai_server, body("[[no_usage no_done bad_line tokens=4]]", stream=True)).body
    assert b"usage" not in events
    assert b"message_stop" not in events
    assert b"chatcmpl" in events
