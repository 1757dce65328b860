"""Sentinel's own chat, over HTTP: contract 2.14, and what it lists as defects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.client import Answer
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import NATIVE as PATH
from tests.support.surface import post

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def asked(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def ask(sentinel: SentinelProcess, token: str | None, **fields: Any) -> Answer:
    return post(sentinel, token, asked(**fields), PATH)


def test_no_tier_is_the_simple_one(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Its model is asked for, named, and reported; `content` that is null is left out."""
    answer = ask(sentinel, token)
    assert answer.status == 200
    assert (answer.headers["x-sentinel-tier"], answer.headers["x-sentinel-model"]) == ("simple", "gpt-4o-mini")
    assert set(answer.json["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert stack.simulators.openai.calls[-1].body["model"] == "gpt-4o-mini"


def test_tiers_have_models_of_their_own(sentinel: SentinelProcess, token: str) -> None:
    """As Zion says."""
    models = {tier: ask(sentinel, token, tier=tier).headers["x-sentinel-model"] for tier in ("moderate", "complex")}
    assert models == {"moderate": "gpt-4.1", "complex": "gpt-4o"}


def test_a_conversation_goes_up_and_not_down(sentinel: SentinelProcess, token: str) -> None:
    """Its tier is in each answer."""
    tiers = ["simple", "complex", "simple"]
    found = [ask(sentinel, token, tier=tier, conversation_id="trip").headers["x-sentinel-tier"] for tier in tiers]
    assert found == ["simple", "complex", "complex"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"tier": "best"}, "tier"), ({"model": "gpt-4o"}, None), ({"seed": 1}, None), ({"stream": None}, "stream")],
)
def test_what_is_wrong_is_named(sentinel: SentinelProcess, token: str, fields: dict[str, Any], param: str) -> None:
    """In the errors of this route."""
    answer = ask(sentinel, token, **fields)
    error = answer.json["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_request")
    assert error["param"] == param


@pytest.mark.parametrize("token", [None, "wrong"])
def test_strangers(sentinel: SentinelProcess, token: str | None) -> None:
    """401, with a message."""
    answer = ask(sentinel, token)
    assert answer.status == 401
    assert answer.json["error"]["message"]


def test_a_tool_is_called_and_answers(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Arguments are an object here, and text at the provider, whose message has the tool's name."""
    call = ask(sentinel, token, tools=[TOOL], tool_choice="required").json["choices"][0]
    assert call["finish_reason"] == "tool_calls"
    assert "content" not in call["message"]
    (made,) = call["message"]["tool_calls"]
    assert made["id"].startswith("call_")
    assert isinstance(made["function"]["arguments"], dict)
    turns = [
        {"role": "user", "content": "How is it in Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": "5 degrees"},
    ]
    answer = post(sentinel, token, {"messages": turns, "tools": [TOOL]}, PATH)
    assert answer.status == 200
    sent = stack.simulators.openai.calls[-1].body["messages"]
    assert isinstance(sent[1]["tool_calls"][0]["function"]["arguments"], str)
    assert sent[2]["name"] == "get_weather"


def test_a_stream(sentinel: SentinelProcess, token: str) -> None:
    """As of a chat: both headers, and `[DONE]`."""
    answer = ask(sentinel, token, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["x-sentinel-tier"], answer.headers["x-sentinel-model"]) == ("simple", "gpt-4o-mini")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: {")]
    # Usage was asked for by Sentinel, not by the client.
    assert all(event.get("usage") is None for event in events)


def test_limits_hold(stack: Stack, sentinel: SentinelProcess) -> None:
    """One counter for all routes."""
    _, token = stack.user("native-limited@corp.test", limits={"ai_requests": 2})
    assert [ask(sentinel, token).status for _ in range(3)] == [200, 200, 429]
    error = ask(sentinel, token).json["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["details"]["metric"] == "ai_requests"
