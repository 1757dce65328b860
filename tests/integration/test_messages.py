"""POST /v1/messages and its count_tokens, with Anthropic's SDK and without: what passes, is admitted, and booked.

About: `endpoints/messages.py`, `endpoints/count_tokens.py`, `dev/generation.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.client import Answer
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, COUNT_TOKENS, chat, post, send
from tests.support.surface import MESSAGES as PATH

pytestmark = pytest.mark.usefixtures("no_faults")

MODEL = "claude-sonnet-5-5"
NOTHING = {"ai_requests": 0}
BEGUN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": " one"}}
TOOL = {
    "name": "weather",
    "description": "The weather of a place",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def asked(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def ask(sentinel: SentinelProcess, token: str | None, body: Any, path: str = PATH, **headers: str) -> Answer:
    return post(sentinel, token, body, path, **{"anthropic_version": "2023-06-01", **headers})


def client(sentinel: SentinelProcess, token: str, **options: Any) -> Any:
    return anthropic.Anthropic(base_url=sentinel.url, api_key=token, **{"max_retries": 0, "timeout": 30, **options})


@pytest.fixture
def sdk(sentinel: SentinelProcess, token: str) -> Iterator[Any]:
    with client(sentinel, token) as sdk:
        yield sdk


def told(error: anthropic.APIStatusError) -> Any:
    return error.body


def events(answer: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(rb"event: (\w+)\ndata: (.*)\n\n", answer)
    return [(name.decode(), json.loads(data)) for name, data in found]


# ------------------------------------------------------------------------------------------------------ the SDK


def test_a_message(sdk: Any) -> None:
    """Whole, with its usage and an id to ask for."""
    message = sdk.messages.create(**asked())
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert message.content[0].text == "Hello! I am a simulated model, and happy to help."
    assert message.usage.output_tokens == 13
    assert message._request_id.startswith("req_")


def test_the_stream_helper_puts_a_message_together(sdk: Any) -> None:
    """Text as it comes, and the whole in the end."""
    with sdk.messages.stream(**asked("[[tokens=20 reasoning=7]]")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[1].text == text
    assert (message.usage.output_tokens, message.stop_reason) == (27, "end_turn")


def test_the_events_of_a_stream(sdk: Any) -> None:
    """As they come, each with its name."""
    kinds = [event.type for event in sdk.messages.create(**asked("[[tokens=2]]"), stream=True)]
    assert kinds == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(sdk: Any, streamed: bool) -> None:
    """A call, and its result in the next turn."""
    given = {**asked("[[tool]]"), "tools": [TOOL]}
    if streamed:
        with sdk.messages.stream(**given) as stream:
            message = stream.get_final_message()
    else:
        message = sdk.messages.create(**given)
    call = message.content[0]
    assert (call.type, call.name, call.input, message.stop_reason) == (
        "tool_use",
        "weather",
        {"city": "Paris"},
        "tool_use",
    )
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sun"}]}
    turns = [
        *given["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    assert sdk.messages.create(**{**given, "messages": turns}).stop_reason == "end_turn"


async def test_the_asynchronous_client(sentinel: SentinelProcess, token: str) -> None:
    """Whole, as a stream, and counted; its token may be a bearer token."""
    async with anthropic.AsyncAnthropic(base_url=sentinel.url, auth_token=token, max_retries=0) as sdk:
        message: Any = await sdk.messages.create(**asked())
        async with sdk.messages.stream(**asked()) as stream:
            streamed: Any = await stream.get_final_message()
        counted = await sdk.messages.count_tokens(model=MODEL, messages=asked()["messages"])
    assert message.content[0].text == streamed.content[0].text
    assert counted.input_tokens == message.usage.input_tokens


def test_the_beta_client(stack: Stack, sentinel: SentinelProcess, sdk: Any, token: str) -> None:
    """Its query and its headers reach the provider; neither the token nor anything else of a query does."""
    stack.simulators.openai.calls.clear()
    assert ask(sentinel, token, asked(), f"{PATH}?key=mine&beta=true").status == 200
    sdk.beta.messages.create(**asked(), betas=["context-1m-2025-08-07"])
    raw, call = stack.simulators.openai.calls
    assert (raw.path, raw.query, call.path) == (PATH, "beta=true", PATH)
    assert call.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert (raw.headers["anthropic-version"], "anthropic-version" in call.headers) == ("2023-06-01", True)
    assert call.headers["authorization"] == f"Bearer {stack.simulators.openai_key}"
    assert "x-api-key" not in call.headers


# --------------------------------------------------------------------------------------------------- what is booked


@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_cache_had_is_part_of_the_input(stack: Stack, streamed: bool) -> None:
    """10 and 90 from the cache are 100."""
    email = f"cached-{streamed}@corp.test"
    _, token = stack.user(email)
    own = stack.sentinel()
    with client(own, token) as sdk:
        given = asked("[[usage_prompt=100 cached=90 tokens=5]]")
        if streamed:
            with sdk.messages.stream(**given) as stream:
                message = stream.get_final_message()
        else:
            message = sdk.messages.create(**given)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (10, 90)
    assert stack.booked(1, email) == {"ai_requests": 1, "ai_input_tokens": 100, "ai_output_tokens": 5}
    line = own.ended()[-1]
    own.stop()
    told = [line[name] for name in ("route", "cached_tokens", "tokens_from", "finish_reason", "outcome")]
    assert told == [PATH, 90, "provider", "end_turn", "ok"]


def test_without_usage_it_is_an_estimate(stack: Stack) -> None:
    """And the log says so."""
    _, token = stack.user("estimated@corp.test")
    own = stack.sentinel()
    assert ask(own, token, asked("[[no_usage tokens=5]]")).status == 200
    line = own.ended()[-1]
    own.stop()
    assert (line["tokens_from"], line["output_tokens"]) == ("estimate", 5)
    assert stack.booked(1, "estimated@corp.test")["ai_input_tokens"] == line["input_tokens"] > 5


def test_a_stream_is_ended_at_a_limit(stack: Stack) -> None:
    """With its block closed and `max_tokens`, so that the SDK has a message; what was delivered is charged."""
    _, token = stack.user("ended@corp.test", limits={"ai_output_tokens": 6})
    own = stack.sentinel()
    with client(own, token) as sdk, sdk.messages.stream(**asked("[[tokens=40 ignores_max]]")) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 6)
    assert len(message.content[0].text.split()) == 6
    assert stack.booked(1, "ended@corp.test")["ai_output_tokens"] == 6
    assert own.ended()[-1]["outcome"] == "limit"
    own.stop()


def test_a_maximum_is_lowered_to_what_is_left(stack: Stack, sentinel: SentinelProcess) -> None:
    """With the budget of thinking, and nothing else of the body."""
    _, token = stack.user("lowered@corp.test", limits={"ai_output_tokens": 2000})
    stack.simulators.openai.calls.clear()
    thinking = {"type": "enabled", "budget_tokens": 8000}
    answer = ask(sentinel, token, asked("[[tokens=3 reasoning=4]]", max_tokens=9000, thinking=thinking))
    assert (answer.status, answer.json["usage"]["output_tokens"]) == (200, 7)
    body = stack.simulators.openai.calls[-1].body
    assert body == {
        **asked("[[tokens=3 reasoning=4]]"),
        "max_tokens": 2000,
        "thinking": {**thinking, "budget_tokens": 1999},
    }


def test_the_body_reaches_the_provider_as_it_came(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Where nothing has to change."""
    stack.simulators.openai.calls.clear()
    sent = b'{ "model":"claude-sonnet-5-5","max_tokens":5 ,"top_k":3.0,"messages":[{"role":"user","content":"a"}]}'
    assert ask(sentinel, token, sent).status == 200
    assert stack.simulators.openai.calls[-1].raw == sent


# ---------------------------------------------------------------------------------------------------------- errors


def test_the_sdk_raises_the_right_class(stack: Stack, sentinel: SentinelProcess, sdk: Any) -> None:
    """For ours and for those of the provider."""
    with pytest.raises(anthropic.BadRequestError) as wrong:
        sdk.messages.create(**asked(), extra_body={"max_tokens": "5"})
    assert told(wrong.value)["error"]["param"] == "max_tokens"
    assert str(wrong.value.request_id).startswith("req_")
    with client(sentinel, "unknown") as stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(**asked())
    forbidden, poor = (
        stack.user("no@corp.test", status="forbidden")[1],
        stack.user("poor2@corp.test", limits=NOTHING)[1],
    )
    with client(sentinel, forbidden) as other, pytest.raises(anthropic.PermissionDeniedError):
        other.messages.create(**asked())
    with client(sentinel, poor) as other, pytest.raises(anthropic.RateLimitError) as refused:
        other.messages.create(**asked())
    assert told(refused.value)["error"]["type"] == "rate_limit_error"
    with pytest.raises(anthropic.NotFoundError, match="claude-0"):
        sdk.messages.create(**{**asked(), "model": "claude-0"})
    with pytest.raises(anthropic.RateLimitError):
        sdk.messages.create(**asked("[[status=429]]"))
    with pytest.raises(anthropic.InternalServerError) as broken:
        sdk.messages.create(**asked("[[status=500]]"))
    assert broken.value.status_code == 502


def test_an_overloaded_provider_says_so_itself(sentinel: SentinelProcess, token: str) -> None:
    """Clients know that status of it."""
    answer = ask(sentinel, token, asked("[[status=529 retry_after=7]]"))
    assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (529, "overloaded_error", "7")
    assert post(sentinel, token, chat("[[status=529]]"), CHAT).status == 502


@pytest.mark.parametrize("path", [PATH, COUNT_TOKENS])
@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "invalid_type", "model"),
        ({"messages": "hi"}, "invalid_type", "messages"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
            "missing_required_parameter",
            "messages[0].content[0].type",
        ),
        ({"system": 5}, "invalid_type", "system"),
        ({"tools": {}}, "invalid_type", "tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "invalid_type", "thinking.budget_tokens"),
    ],
)
def test_what_is_wrong_is_named(
    sentinel: SentinelProcess, token: str, path: str, change: dict[str, Any], code: str, param: str
) -> None:
    """In Anthropic's shape, before anything is asked or spent."""
    answer = ask(sentinel, token, {**asked(), **change}, path)
    assert (answer.status, answer.json["type"], answer.error["type"]) == (400, "error", "invalid_request_error")
    assert (answer.error["code"], answer.error["param"]) == (code, param)
    assert answer.json["request_id"] == answer.headers["x-request-id"] == answer.headers["request-id"]


def test_a_maximum_is_required(sentinel: SentinelProcess, token: str) -> None:
    """As Anthropic requires it; keys that come twice are refused as everywhere."""
    body = asked()
    del body["max_tokens"]
    assert ask(sentinel, token, body).error["param"] == "max_tokens"
    answer = ask(sentinel, token, b'{"model":"m","max_tokens":1,"max_tokens":9,"messages":[]}')
    assert (answer.error["code"], answer.error["param"]) == ("invalid_json", "max_tokens")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("POST", f"{PATH}/a%25b", 404, "not_found_error"),
        ("POST", f"/v1{PATH}/?beta=true", 400, "invalid_request_error"),
    ],
)
def test_errors_of_routing_have_the_shape_of_the_path(
    sentinel: SentinelProcess, token: str, method: str, path: str, status: int, kind: str
) -> None:
    """Also below it."""
    answer = send(sentinel, method, path, token)
    assert (answer.status, answer.json["type"], answer.error["type"]) == (status, "error", kind)
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert send(sentinel, method, path).error["type"] == "authentication_error"


# ------------------------------------------------------------------------------------------------- broken streams


@pytest.mark.parametrize(
    ("tail", "booked"),
    [
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n', None),
        (b"", None),
        (
            b"event: content_block_start\ndata: %b\n\n" % json.dumps(BEGUN).encode(),
            {"ai_requests": 1, "ai_input_tokens": 25, "ai_output_tokens": 1},
        ),
    ],
)
def test_a_stream_without_its_last_event_broke_off(
    stack: Stack,
    provider: ScriptedProvider,
    scripted: SentinelProcess,
    tail: bytes,
    booked: dict[str, int] | None,
    request: pytest.FixtureRequest,
) -> None:
    """The SDK raises; before anything was generated it costs nothing, although the input is told at the start."""
    email = f"broken-{len(tail)}@corp.test"
    _, token = stack.user(email, limits={"ai_requests": 1})
    start = {"type": "message", "content": [], "usage": {"input_tokens": 25, "output_tokens": 4}}
    data = (
        b"event: message_start\ndata: %b\n\n" % json.dumps({"type": "message_start", "message": start}).encode() + tail
    )
    provider.says(data, content_type="text/event-stream")
    answer = ask(scripted, token, asked(stream=True))
    assert [name for name, _ in events(answer.body)][-1] == "error"
    assert answer.body.count(b"event: error") == 1
    with client(scripted, token) as sdk, pytest.raises(anthropic.APIStatusError):
        list(sdk.messages.create(**asked(), stream=True))
    if booked:
        assert stack.booked(1, email) == booked
    line = scripted.ended(user=email.partition("@")[0])[0]
    assert (line["outcome"], line["output_tokens"]) == ("broken", 1 if booked else 0)


# ---------------------------------------------------------------------------------------------------- count_tokens


def test_counting_costs_nothing(stack: Stack, sentinel: SentinelProcess) -> None:
    """Also for whom one request, and no token, is left."""
    _, token = stack.user("counts@corp.test", limits={"ai_requests": 1, "ai_input_tokens": 1, "ai_output_tokens": 1})
    body = {"model": MODEL, "system": "Be brief", "messages": asked("Say hello " * 50)["messages"]}
    for _ in range(3):
        answer = ask(sentinel, token, body, COUNT_TOKENS)
        assert (answer.status, list(answer.json)) == (200, ["input_tokens"])
    assert stack.used("counts@corp.test")["ai_requests"] == 0
    assert ask(sentinel, token, {**body, "max_tokens": 5}, COUNT_TOKENS).status == 400


@pytest.mark.parametrize("status", [404, 405])
def test_without_such_a_path_the_count_is_ours(
    stack: Stack, sentinel: SentinelProcess, token: str, status: int
) -> None:
    """An estimate; a model that the provider does not know is another matter, and so is a failure."""
    faults = stack.simulators.openai.faults
    faults.set(status=status, body=b"<html>Not Found</html>", path_prefix=COUNT_TOKENS)
    body = {"model": MODEL, "messages": asked()["messages"]}
    answer = ask(sentinel, token, body, COUNT_TOKENS)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert 5 <= answer.json["input_tokens"] <= 20
    faults.set(status=503, path_prefix=COUNT_TOKENS)
    assert ask(sentinel, token, body, COUNT_TOKENS).status == 502
    faults.clear()
    assert ask(sentinel, token, {**body, "model": "claude-0"}, COUNT_TOKENS).status == 404


# ---------------------------------------------------------------------------------------------- limits and probes


def test_a_rate_limit_in_anthropics_headers(stack: Stack) -> None:
    """Beside the others; on the refusal, too."""
    own = stack.sentinel(RATE_LIMITS="ai_requests=2/60s,ai_input_tokens=5000/60s,ai_output_tokens=1000/60s")
    _, token = stack.user("headers@corp.test")
    first, counted, refused = ask(own, token, asked()), ask(own, token, asked(), COUNT_TOKENS), ask(own, token, asked())
    own.stop()
    assert (first.status, counted.status, refused.status) == (200, 400, 429)
    told = {name: value for name, value in first.headers.items() if name.startswith("anthropic-ratelimit-")}
    kinds = ("requests", "input-tokens", "output-tokens", "tokens")
    assert set(told) == {f"anthropic-ratelimit-{k}-{n}" for k in kinds for n in ("limit", "remaining", "reset")}
    assert (told["anthropic-ratelimit-requests-limit"], told["anthropic-ratelimit-requests-remaining"]) == ("2", "1")
    assert told["anthropic-ratelimit-output-tokens-limit"] == told["anthropic-ratelimit-tokens-limit"] == "1000"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["anthropic-ratelimit-requests-reset"])
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/", "/api/hello"])
def test_claude_code_finds_somebody(sentinel: SentinelProcess, path: str) -> None:
    """Without a token, an empty 200."""
    answer = send(sentinel, "HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
