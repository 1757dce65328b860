"""The official SDK must not notice that there is a proxy: its errors, its retries, its streams."""

from __future__ import annotations

from datetime import date

import openai
import pytest
from pydantic import BaseModel

from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import chat

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("[[status=400]]", openai.BadRequestError, None),
        ("[[status=404]]", openai.NotFoundError, None),
        ("[[status=409]]", openai.ConflictError, None),
        ("[[status=422]]", openai.UnprocessableEntityError, None),
        ("[[status=429]]", openai.RateLimitError, "rate_limit_exceeded"),
        ("[[status=500]]", openai.InternalServerError, "upstream_error"),
        ("[[status=401]]", openai.InternalServerError, "upstream_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdks_own(
    sentinel: SentinelProcess, token: str, text: str, kind: type[openai.APIStatusError], code: str | None, stream: bool
) -> None:
    """Each status is the exception that callers of OpenAI catch, with code and request id."""
    async with sdk(sentinel, token) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**chat(text, stream=stream))
    assert caught.value.code == code
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


async def test_a_wrong_token_is_an_authentication_error(sentinel: SentinelProcess) -> None:
    """As with a wrong key of OpenAI's."""
    async with sdk(sentinel, "wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_api_key"


async def test_a_wrong_field_is_named(sentinel: SentinelProcess, token: str) -> None:
    """`param` of the exception is the path of the field."""
    async with sdk(sentinel, token) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=[{"content": "hi"}])  # type: ignore[list-item]
    assert (caught.value.param, caught.value.code) == ("messages[0].role", "missing_required_parameter")


async def test_a_used_up_subscription_is_not_tried_again(stack: Stack, sentinel: SentinelProcess) -> None:
    """x-should-retry holds the SDK back; a request that waits for a window is tried again."""
    _, token = stack.user("poor@corp.test", limits={"ai_requests": 1}, used={"ai_requests": 1})
    async with sdk(sentinel, token, max_retries=3) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**chat())
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_a_full_window_is_waited_for(stack: Stack) -> None:
    """The SDK obeys Retry-After, and succeeds by itself."""
    sentinel = stack.sentinel(RATE_LIMITS="ai_requests=1/1s")
    _, token = stack.user("patient@corp.test")
    async with sdk(sentinel, token, max_retries=3) as client:
        for _ in range(2):
            answer = await client.chat.completions.create(**chat("[[tokens=1]]"))
            assert answer.choices[0].message.content
    assert [line["status"] for line in sentinel.ended(3)] == [200, 429, 200]


async def test_a_failure_of_zion_is_waited_for(stack: Stack, sentinel: SentinelProcess) -> None:
    """503 with Retry-After: the SDK comes back and is served."""
    _, token = stack.user("comeback@corp.test")
    stack.simulators.zion.faults.set(status=503, times=1, path_prefix="/api/v1/users/me")
    async with sdk(sentinel, token, max_retries=2) as client:
        answer = await client.chat.completions.create(**chat("[[tokens=1]]"))
    assert answer.choices


async def test_a_stream_that_breaks_raises(sentinel: SentinelProcess, token: str) -> None:
    """The error event becomes an exception, after the chunks that came."""
    said = []
    async with sdk(sentinel, token) as client:
        stream = await client.chat.completions.create(**chat("[[tokens=20 break_after=4]]", stream=True))

        async def read() -> None:
            async for chunk in stream:
                said.append(chunk.choices[0].delta.content)  # noqa: PERF401 (a comprehension would lose them)

        with pytest.raises(openai.APIError, match="provider"):
            await read()
    assert sum(bool(text) for text in said) == 4


@pytest.mark.parametrize(
    "orders", ["split=line", "split=utf8 text_emoji=1", "bad_line=1", "big_event=300000", "no_done=1"]
)
async def test_odd_streams_are_read_alike(stack: Stack, sentinel: SentinelProcess, token: str, orders: str) -> None:
    """Through Sentinel the SDK reads of an odd stream what it reads directly."""
    seen = []
    direct = openai.AsyncOpenAI(
        base_url=stack.simulators.openai_url, api_key=stack.simulators.openai_key, max_retries=0
    )
    for client in (direct, sdk(sentinel, token)):
        text = ""
        async with client:
            stream = await client.chat.completions.create(**chat(f"[[tokens=30 {orders}]]", stream=True))
            try:
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
            except ValueError:  # The SDK's own opinion of a bad line.
                text += "!"
        seen.append(text)
    assert seen[0] == seen[1] != ""


async def test_tools_and_legacy_routes_and_models_work(sentinel: SentinelProcess, token: str) -> None:
    """What else an application uses."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    async with sdk(sentinel, token) as client:
        answer = await client.chat.completions.create(**chat(tools=tools, tool_choice="required"))
        calls = answer.choices[0].message.tool_calls
        assert calls is not None
        assert (calls[0].type, answer.choices[0].finish_reason) == ("function", "tool_calls")
        legacy = await client.completions.create(model="davinci-002", prompt="hi [[tokens=3]]")
        assert len(legacy.choices[0].text.split()) == 3
        models = [model.id async for model in client.models.list()]
        assert "gpt-4o-mini" in models
        assert (await client.models.retrieve("gpt-4o-mini")).id == "gpt-4o-mini"
        raw = await client.chat.completions.with_raw_response.create(**chat("[[tokens=1]]"))
        assert raw.headers["x-request-id"].startswith("req_")


class Event(BaseModel):
    name: str
    day: date
    guests: list[str]
    place: str | None


async def test_parse_gives_an_object_of_the_model(sentinel: SentinelProcess, token: str) -> None:
    """Structured outputs, whole and streamed, and a tool's arguments: through Sentinel as without it."""
    tool = openai.pydantic_function_tool(Event)
    async with sdk(sentinel, token) as client:
        whole = await client.chat.completions.parse(**chat(), response_format=Event)
        found = whole.choices[0].message.parsed
        assert isinstance(found, Event)
        async with client.chat.completions.stream(**chat(), response_format=Event) as stream:
            streamed = await stream.get_final_completion()
        assert streamed.choices[0].message.parsed == found
        called = await client.chat.completions.parse(**chat(), tools=[tool], tool_choice="required")
        calls = called.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.parsed_arguments == found
