"""POST /v1/responses, with the official SDK and without: what an application gets, what is admitted, what is booked.

About: `endpoints/responses.py`.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseIncompleteEvent
from pydantic import BaseModel

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import RESPONSES as PATH
from tests.support.surface import post

pytestmark = pytest.mark.usefixtures("no_faults")

MODEL = "gpt-4o-mini"
THINKS = "o4-mini"
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


def asked(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, **fields}


def events(body: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events; each is named after its type, and numbered."""
    found = []
    for event in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


class Event(BaseModel):
    name: str
    day: date
    guests: list[str]


class TestWithTheSdk:
    """It must not notice that there is a proxy."""

    async def test_a_whole_response(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Text and usage, which is what is booked."""
        _, token = stack.user("whole-response@corp.test")
        async with sdk(sentinel, token) as api:
            answer = await api.responses.create(model=MODEL, input="hello [[tokens=5]]", instructions="Be kind.")
        assert (answer.status, len(answer.output_text.split())) == ("completed", 5)
        assert answer.usage is not None
        booked = {"ai_input_tokens": answer.usage.input_tokens, "ai_output_tokens": 5, "ai_requests": 1}
        assert stack.booked(1, "whole-response@corp.test") == booked

    def test_the_sdk_that_waits(self, sentinel: SentinelProcess, token: str) -> None:
        """The same without asyncio, whole and streamed."""
        with openai.OpenAI(base_url=f"{sentinel.url}/v1", api_key=token, max_retries=0) as api:
            assert api.responses.create(model=MODEL, input="hello").output_text.startswith("Hello")
            with api.responses.stream(model=MODEL, input="hello [[tokens=4]]") as stream:
                assert len(stream.get_final_response().output_text.split()) == 4

    async def test_a_stream(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Every event; usage comes last, and is booked."""
        _, token = stack.user("streamed-response@corp.test")
        async with sdk(sentinel, token) as api, api.responses.stream(model=MODEL, input="[[tokens=20]]") as stream:
            kinds = [event.type async for event in stream]
            answer = await stream.get_final_response()
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        assert kinds.count("response.output_text.delta") == 20
        assert answer.usage is not None
        assert stack.booked(1, "streamed-response@corp.test")["ai_output_tokens"] == answer.usage.output_tokens == 20

    async def test_parse_gives_an_object_of_the_model(self, sentinel: SentinelProcess, token: str) -> None:
        """Structured outputs, whole and streamed."""
        async with sdk(sentinel, token) as api:
            whole = await api.responses.parse(model=MODEL, input="hello", text_format=Event)
            assert isinstance(whole.output_parsed, Event)
            async with api.responses.stream(model=MODEL, input="hello", text_format=Event) as stream:
                assert (await stream.get_final_response()).output_parsed == whole.output_parsed

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_a_tool_is_called_and_answered(self, sentinel: SentinelProcess, token: str, streamed: bool) -> None:
        """The call goes back with its result, and is answered."""
        async with sdk(sentinel, token) as api:
            asked: dict[str, Any] = {"model": MODEL, "input": "Rain? [[tool]]", "tools": [TOOL]}
            if streamed:
                async with api.responses.stream(**asked) as stream:
                    answer: Any = await stream.get_final_response()
            else:
                answer = await api.responses.create(**asked)
            (call,) = answer.output
            assert isinstance(call, ResponseFunctionToolCall)
            assert (call.name, list(json.loads(call.arguments))) == ("weather", ["city"])
            result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
            said: Any = [{"role": "user", "content": "Rain?"}, call.to_dict(), result]
            again = await api.responses.create(model=MODEL, tools=[TOOL], input=said)
            assert again.output_text
            onward = await api.responses.create(model=MODEL, previous_response_id=answer.id, input=[result])
        assert onward.output_text
        assert onward.previous_response_id == answer.id

    async def test_thinking_is_output(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Whole and streamed, it is told and booked."""
        for streamed in (False, True):
            email = f"thinks-{streamed}@corp.test"
            _, token = stack.user(email)
            async with sdk(sentinel, token) as api:
                given: dict[str, Any] = {"model": THINKS, "input": "hi [[reasoning=64 tokens=3]]"}
                if streamed:
                    async with api.responses.stream(**given) as stream:
                        answer: Any = await stream.get_final_response()
                else:
                    answer = await api.responses.create(**given)
            assert answer.usage.output_tokens_details.reasoning_tokens == 64
            assert stack.booked(1, email)["ai_output_tokens"] == 67
        line = sentinel.ended()[-1]
        assert (line["reasoning_tokens"], line["finish_reason"]) == (64, "completed")

    async def test_a_stream_that_breaks_raises(self, sentinel: SentinelProcess, token: str) -> None:
        """The error event becomes an exception, after the deltas that came; so does a stream without its last event."""
        for orders in ("break_after=4", "no_done"):
            said: list[str] = []
            async with sdk(sentinel, token) as api:
                stream = await api.responses.create(model=MODEL, input=f"[[tokens=20 {orders}]]", stream=True)

                async def read(stream: Any = stream, said: list[str] = said) -> None:
                    async for event in stream:
                        if event.type == "response.output_text.delta":
                            said.append(event.delta)  # noqa: PERF401 (a comprehension would lose them)

                with pytest.raises(openai.APIError, match="broke") as caught:
                    await read()
            assert caught.value.code == "upstream_error"
            assert len(said) == (4 if orders == "break_after=4" else 20)

    @pytest.mark.parametrize("orders", ["split=line", "split=utf8 text_emoji=1", "big_event=300000"])
    async def test_odd_streams_are_read_alike(
        self, stack: Stack, sentinel: SentinelProcess, token: str, orders: str
    ) -> None:
        """Through Sentinel the SDK reads of an odd stream what it reads directly."""
        seen = []
        direct = openai.AsyncOpenAI(base_url=stack.simulators.openai_url, api_key=stack.simulators.openai_key)
        for api in (direct, sdk(sentinel, token)):
            async with api, api.responses.stream(model=MODEL, input=f"[[tokens=30 {orders}]]") as stream:
                seen.append((await stream.get_final_response()).output_text)
        assert seen[0] == seen[1] != ""


class TestLimits:
    """What is left of an output limit is all that a client gets."""

    @pytest.mark.parametrize("left", [1, 6, 20])
    async def test_a_stream_is_ended_in_its_own_format(
        self, stack: Stack, sentinel: SentinelProcess, left: int
    ) -> None:
        """The response is incomplete, with the items and the usage that are charged; the SDK takes all events."""
        email = f"ended-{left}@corp.test"
        _, token = stack.user(email, limits={"ai_output_tokens": left})
        async with (
            sdk(sentinel, token) as api,
            api.responses.stream(model=MODEL, input="[[tokens=40 ignores_max]]") as stream,
        ):
            seen = [event async for event in stream]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        last = seen[-1]
        assert isinstance(last, ResponseIncompleteEvent)
        said = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
        assert last.response.output_text == said
        assert [event.type for event in seen[-4:-1]] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
        ]
        assert last.response.status == "incomplete"
        assert last.response.incomplete_details is not None
        assert last.response.incomplete_details.reason == "max_output_tokens"
        assert last.response.usage is not None
        assert len(said.split()) == last.response.usage.output_tokens == left
        assert stack.booked(1, email)["ai_output_tokens"] == left
        assert last.response.id == seen[0].response.id  # type: ignore[union-attr]

    async def test_the_sdk_takes_it_as_openais_own(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Its accumulator has a final response of what is completed alone; of ours it says what it says of OpenAI's."""
        _, token = stack.user("as-openais@corp.test", limits={"ai_output_tokens": 20})
        direct = openai.AsyncOpenAI(base_url=stack.simulators.openai_url, api_key=stack.simulators.openai_key)
        asked: dict[str, Any] = {"model": MODEL, "input": "[[tokens=40]]", "max_output_tokens": 20}
        for api in (direct, sdk(sentinel, token)):
            async with api, api.responses.stream(**asked) as stream:
                with pytest.raises(RuntimeError, match=r"response\.completed"):
                    await stream.get_final_response()
            asked = {"model": MODEL, "input": "[[tokens=40 ignores_max]]"}

    def test_a_call_is_ended_too(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """As far as its arguments came."""
        _, token = stack.user("ended-call@corp.test", limits={"ai_output_tokens": 4})
        body = asked("[[tool ignores_max]]", tools=[TOOL], stream=True)
        *_, arguments, item, last = events(post(sentinel, token, body, PATH).body)
        assert arguments["type"] == "response.function_call_arguments.done"
        assert item["item"]["status"] == "incomplete"
        assert item["item"]["arguments"] == arguments["arguments"] != ""
        assert last["response"]["output"] == [item["item"]]

    def test_a_maximum_is_lowered_or_added(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """Where output is limited; every other byte stays, and null is none."""
        for sent in (None, 500):
            _, token = stack.user(f"lowered-{sent}@corp.test", limits={"ai_output_tokens": 40})
            stack.simulators.openai.calls.clear()
            answer = post(sentinel, token, asked("[[tokens=60]]", max_output_tokens=sent, store=False), PATH)
            assert answer.json["status"] == "incomplete"
            assert stack.simulators.openai.calls[-1].body == {
                **asked("[[tokens=60]]", store=False),
                "max_output_tokens": 40,
            }

    def test_less_than_any_provider_takes_is_refused(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """OpenAI takes no maximum below 16, and nobody could hold a whole answer to less."""
        _, token = stack.user("fifteen@corp.test", limits={"ai_output_tokens": 15})
        assert post(sentinel, token, asked(), PATH).is_error(429, "insufficient_quota", "insufficient_quota")
        _, other = stack.user("sixteen@corp.test", limits={"ai_output_tokens": 16})
        assert post(sentinel, other, asked("[[tokens=50]]"), PATH).json["usage"]["output_tokens"] == 16

    def test_thinking_has_its_maximum(self, stack: Stack, sentinel: SentinelProcess) -> None:
        """A model that thinks is told what is left, and may use it up before it says anything."""
        _, token = stack.user("thinks-up@corp.test", limits={"ai_output_tokens": 30})
        body = {**asked("[[reasoning=200 tokens=5]]", stream=True), "model": THINKS}
        last = events(post(sentinel, token, body, PATH).body)[-1]
        assert (last["type"], last["response"]["usage"]["output_tokens"]) == ("response.incomplete", 30)
        assert stack.booked(1, "thinks-up@corp.test")["ai_output_tokens"] == 30


class TestBytes:
    """What passes is what came."""

    @pytest.mark.parametrize("after", [b"", b"data: [DONE]\n\n"])
    def test_every_event_passes_as_it_is(self, stack: Stack, after: bytes) -> None:
        """Known or not, and what follows the last."""
        usage = {"input_tokens": 21, "output_tokens": 17, "total_tokens": 38}
        told: list[Any] = [
            {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "output": []}},
            {"type": "response.a_new_thing", "sequence_number": 1, "x": {"y": None}},
            {"type": "response.output_text.delta", "sequence_number": 2, "delta": " one", "obfuscation": "é"},
            {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "usage": usage}},
        ]
        sent = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in told]
        _, token = stack.user(f"bytes-{len(after)}@corp.test")
        with ScriptedProvider() as provider:
            own = stack.sentinel(OPENAI_API_URL=provider.url)
            for writes in ([b"".join(sent) + after], [*sent, after]):
                provider.streams(*filter(None, writes))
                assert post(own, token, asked(stream=True), PATH).body == b"".join(sent) + after
            lines = own.ended(2)
            own.stop()
        assert [(line["input_tokens"], line["output_tokens"], line["outcome"]) for line in lines] == [
            (21, 17, "ok")
        ] * 2

    def test_the_body_reaches_the_provider_as_it_came(
        self, stack: Stack, sentinel: SentinelProcess, token: str
    ) -> None:
        """Whatever its fields."""
        stack.simulators.openai.calls.clear()
        sent = b'{ "model":"gpt-4o-mini" , "input":"hi", "stream":true, "metadata": {"a":"b"}, "store":false}'
        assert post(sentinel, token, sent, PATH).status == 200
        assert [call.raw for call in stack.simulators.openai.calls if call.path == PATH] == [sent]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"model": MODEL}, "missing_required_parameter", "input"),
        ({"input": "hi"}, "missing_required_parameter", "model"),
        ({"model": MODEL, "input": [{"role": "user", "content": [{"type": "input_text", "text": 7}]}]}, "invalid_type",
         "input[0].content[0].text"),
        (b'{"model":"m","input":"a","max_output_tokens":1,"max_output_tokens":9}', "invalid_json", "max_output_tokens"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(sentinel: SentinelProcess, token: str, body: Any, code: str, param: str) -> None:
    """Before anything is asked or spent."""
    assert post(sentinel, token, body, PATH).is_error(400, code, param=param)
