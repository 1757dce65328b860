"""OpenAI's API, over real sockets: seen by the official SDK, and byte by byte.

About: `dev/chat.py`, `dev/clock.py`, `dev/control.py`, `dev/vendors/vendor.py`.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import openai
import pytest
from pydantic import BaseModel

from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.reply import encoding_of
from sentinel.dev.server import Server
from tests.support.client import Answer, ask
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.unit.dev.models import MODELS, Plain

CHAT = "/v1/chat/completions"
Post = Callable[..., Answer]
OpenStream = Callable[[str], socket.socket]


@pytest.fixture
def sdk(openai_sim: OpenAISimulator, openai_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key=openai_sim.api_key, base_url=openai_server.url + "/v1", max_retries=0, timeout=10
    ) as sdk:
        yield sdk


@pytest.fixture
def post(openai_sim: OpenAISimulator, openai_server: Server) -> Post:
    """A request with the right key."""

    def post(path: str, json: object = None, method: str = "POST", **headers: str) -> Answer:
        sent = {"Authorization": f"Bearer {openai_sim.api_key}", "x-request-id": "req_7", **headers}
        return ask(method, openai_server.url + path, json, sent)

    return post


def chat(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}


@pytest.fixture
def open_stream(openai_sim: OpenAISimulator, openai_server: Server) -> Iterator[OpenStream]:
    """Start a stream on a connection that the test reads, and may close, by itself."""
    connections: list[socket.socket] = []

    def open_stream(content: str) -> socket.socket:
        body = msgspec.json.encode(chat(content, stream=True))
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {openai_sim.api_key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connections.append(socket.create_connection(("127.0.0.1", openai_server.port), timeout=PATIENCE_SECONDS))
        connections[-1].sendall(head.encode() + body)
        return connections[-1]

    yield open_stream
    for connection in connections:
        connection.close()


def read_chunks(connection: socket.socket, count: int) -> bytes:
    """Read until so many content chunks have come."""
    received = b""
    while received.count(b'"delta":{"content":"') < count:
        part = connection.recv(65536)
        assert part, received
        received += part
    return received


# ------------------------------------------------------------------------------------------------- the official SDK


def test_chat(sdk: openai.OpenAI, openai_sim: OpenAISimulator) -> None:
    """A plain answer, and its bill."""
    answer = sdk.chat.completions.create(**chat("hello world"), extra_headers={"x-request-id": "req_1"})
    assert answer.choices[0].message.content == "Hello! I am a simulated model, and happy to help."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.completion_tokens == 13
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    (bill,) = openai_sim.billed
    assert (bill.request_id, bill.model, bill.state) == ("req_1", "gpt-4o", "complete")
    assert (bill.prompt_tokens, bill.completion_tokens) == (9, 13)


def test_stream_with_usage(sdk: openai.OpenAI, openai_sim: OpenAISimulator) -> None:
    """Every chunk says `usage: null`, the last one has no choices but the usage."""
    request = chat("[[tokens=20]]", stream=True, stream_options={"include_usage": True})
    *chunks, last = list(sdk.chat.completions.create(**request))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert (last.choices, last.usage.completion_tokens) == ([], 20)
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()) == 20
    assert (openai_sim.billed[0].completion_tokens, openai_sim.billed[0].state) == (20, "complete")


def test_stream_without_usage(sdk: openai.OpenAI) -> None:
    """Nobody asked for usage, nobody gets it."""
    chunks = list(sdk.chat.completions.create(**chat(), stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(sdk: openai.OpenAI, openai_sim: OpenAISimulator, stream: bool) -> None:
    """Each of n choices has its own text, and all are billed."""
    request = chat("[[tokens=6]]", n=3, stream=stream)
    if stream:
        texts = ["", "", ""]
        for chunk in sdk.chat.completions.create(**request):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        texts = [choice.message.content for choice in sdk.chat.completions.create(**request).choices]
    assert len(set(texts)) == 3
    assert [len(text.split()) for text in texts] == [6, 6, 6]
    assert openai_sim.billed[0].completion_tokens == 18


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens(sdk: openai.OpenAI, openai_sim: OpenAISimulator, name: str) -> None:
    """Both names of the limit cut the answer."""
    answer = sdk.chat.completions.create(**chat("[[tokens=20]]", **{name: 7}))
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 7)
    assert openai_sim.billed[0].completion_tokens == 7


TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}},
    }
    for name in ("first", "second")
]


@pytest.mark.parametrize(
    ("content", "choice", "called"),
    [
        ("hi", "required", "first"),
        ("hi", {"type": "function", "function": {"name": "second"}}, "second"),
        ("hi [[tool]]", "auto", "first"),
        ("hi", "auto", None),
        ("hi [[tool]]", "none", None),
    ],
)
def test_tools(sdk: openai.OpenAI, content: str, choice: Any, called: str | None) -> None:
    """A tool is called when it is demanded, in one piece and in fragments alike."""
    request = chat(content, tools=TOOLS, tool_choice=choice)
    message = sdk.chat.completions.create(**request).choices[0].message
    with sdk.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion().choices[0].message
    if called is None:
        assert message.tool_calls is None
        assert message.content
    else:
        assert message.content is None
        for calls in (message.tool_calls, streamed.tool_calls):
            assert calls
            assert [(call.function.name, call.function.arguments) for call in calls] == [(called, '{"x":"Paris"}')]


def test_a_tool_that_was_called_is_not_called_anew(sdk: openai.OpenAI) -> None:
    """An agent that tells what came of it gets an answer, though its first words still have the directive."""
    request = chat("hi [[tool]]", tools=TOOLS)
    asked = sdk.chat.completions.create(**request).choices[0].message
    assert asked.tool_calls is not None
    called = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "done"}
    request["messages"] += [asked.model_dump(exclude_none=True), called]
    assert sdk.chat.completions.create(**request).choices[0].message.tool_calls is None


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_structured_outputs(sdk: openai.OpenAI, openai_sim: OpenAISimulator, model: type[BaseModel]) -> None:
    """`parse` gives an object of the model, from an answer in one piece and from a stream, and each token is billed."""
    request = chat("Fill it in", response_format=model)
    message = sdk.chat.completions.parse(**request).choices[0].message
    assert isinstance(message.parsed, model)
    assert message.content
    with sdk.chat.completions.stream(**request) as stream:
        deltas = sum(event.type == "content.delta" for event in stream)
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.parsed == message.parsed
    assert deltas > 3
    billed = [bill.completion_tokens for bill in openai_sim.billed]
    assert billed == [encoding_of("gpt-4o").count(message.content)] * 2


def only_call(message: Any) -> Any:
    (call,) = message.tool_calls
    return call


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_structured_tool_calls(sdk: openai.OpenAI, model: type[BaseModel]) -> None:
    """The arguments of a demanded tool are an object of its model, too."""
    tool = openai.pydantic_function_tool(model)
    name = tool["function"]["name"]
    for choice in ("required", {"type": "function", "function": {"name": name}}):
        request = chat("Call it", tools=[tool], tool_choice=choice)
        call = only_call(sdk.chat.completions.parse(**request).choices[0].message)
        assert isinstance(call.function.parsed_arguments, model)
        with sdk.chat.completions.stream(**request) as stream:
            streamed = only_call(stream.get_final_completion().choices[0].message)
        assert streamed.function.parsed_arguments == call.function.parsed_arguments


def test_any_json(sdk: openai.OpenAI) -> None:
    """`json_object` gives an object with the usual text; OpenAI wants to be told of JSON in the messages, too."""
    request = chat("In JSON, please", response_format={"type": "json_object"})
    whole = sdk.chat.completions.create(**request).choices[0].message.content
    assert json.loads(whole) == {"reply": "Hello! I am a simulated model, and happy to help."}
    streamed = sdk.chat.completions.create(**request, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole
    with pytest.raises(openai.BadRequestError, match="must contain the word 'json'"):
        sdk.chat.completions.create(**chat("hi", response_format={"type": "json_object"}))


def test_structured_outputs_that_end_early(sdk: openai.OpenAI) -> None:
    """A refusal takes the place of the object; a maximum cuts it, which the SDK tells."""
    refused = sdk.chat.completions.parse(**chat("[[refusal]]", response_format=Plain)).choices[0].message
    assert (refused.parsed, refused.content) == (None, None)
    assert refused.refusal
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(**chat("Fill it in", response_format=Plain, max_tokens=3))


def test_a_schema_that_nothing_fits(sdk: openai.OpenAI) -> None:
    """400 that says whose schema it is."""
    never = {"type": "object", "properties": {"a": False}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "never", "schema": never}}
    with pytest.raises(openai.BadRequestError, match="Invalid schema for response_format 'never'"):
        sdk.chat.completions.create(**chat(response_format=form))
    tools = [*TOOLS, {"type": "function", "function": {"name": "never", "parameters": never}}]
    choice = {"type": "function", "function": {"name": "never"}}
    with pytest.raises(openai.BadRequestError, match="Invalid schema for function 'never'") as refused:
        sdk.chat.completions.create(**chat(tools=tools, tool_choice=choice))
    assert refused.value.param == "tools[2].function.parameters"


def test_unknown_tool_choice(sdk: openai.OpenAI) -> None:
    """A named tool must exist."""
    with pytest.raises(openai.BadRequestError, match="not found in 'tools'"):
        sdk.chat.completions.create(
            **chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "third"}})
        )


def test_refusal(sdk: openai.OpenAI) -> None:
    """A refusal takes the place of the content."""
    message = sdk.chat.completions.create(**chat("[[refusal]]")).choices[0].message
    assert message.content is None
    assert message.refusal.startswith("Sorry")


def test_completions(sdk: openai.OpenAI, openai_sim: OpenAISimulator) -> None:
    """Legacy completions, streamed and not, for several prompts."""
    answer = sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt=["a [[tokens=3]]", "b [[tokens=3]]"])
    assert [len(choice.text.split()) for choice in answer.choices] == [3, 3]
    request: dict[str, Any] = {
        "model": "davinci-002",
        "prompt": "hello world",
        "stream_options": {"include_usage": True},
    }
    *chunks, last = list(sdk.completions.create(**request, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("Hello!")
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 13)
    assert [bill.completion_tokens for bill in openai_sim.billed] == [6, 13]


def test_models(sdk: openai.OpenAI) -> None:
    """The list, one of it, and one that is not in it."""
    names = {model.id for model in sdk.models.list()}
    assert {"gpt-4o", "gpt-4o-mini"} <= names
    assert sdk.models.retrieve("gpt-4o").owned_by == "system"
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.models.retrieve("nope")
    assert missing.value.code == "model_not_found"


def test_errors(sdk: openai.OpenAI, openai_server: Server, openai_sim: OpenAISimulator) -> None:
    """The SDK sees the exceptions that it would see from OpenAI, and nothing is billed."""
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(**{**chat(), "model": "nope"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(**chat(max_tokens=0))
    assert (bad.value.param, bad.value.code) == ("max_tokens", "integer_below_minimum_value")
    with pytest.raises(openai.RateLimitError) as limited:
        sdk.chat.completions.create(**chat("[[status=429 retry_after=2]]"))
    assert limited.value.response.headers["retry-after"] == "2"
    with pytest.raises(openai.BadRequestError, match="no directive 'tokenz'"):
        sdk.chat.completions.create(**chat("[[tokenz=2]]"))
    with (
        openai.OpenAI(api_key="sk-wrong-key-1234", base_url=openai_server.url + "/v1", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match=r"sk-wrong\*{8}1234"),
    ):
        stranger.models.list()
    assert not openai_sim.billed


# -------------------------------------------------------------------------------------------------------- the bytes


def test_headers_and_stray_paths(post: Post) -> None:
    """Answers carry OpenAI's headers; unknown paths and methods are refused in OpenAI's shape."""
    headers = post(CHAT, chat()).headers
    assert headers["x-request-id"].startswith("req_")
    for name in ("openai-processing-ms", "openai-organization", "set-cookie", "x-ratelimit-remaining-tokens"):
        assert name in headers
    assert (post("/v1/nope", {}).status, post("/nope", {}).status) == (404, 404)
    assert post("/v1/nope", {}).json["error"]["message"] == "Invalid URL (POST /v1/nope)"
    assert (post("/v1/models", {}).status, post(CHAT, method="PUT").status) == (405, 405)


def test_the_calls_are_recorded_raw(post: Post, openai_sim: OpenAISimulator) -> None:
    """A test can look at the very bytes that arrived."""
    post(CHAT, chat(), cookie="a=b")
    call = openai_sim.calls[-1]
    assert (call.method, call.path, call.headers["cookie"]) == ("POST", CHAT, "a=b")
    assert call.raw == json.dumps(chat()).encode()
    assert call.body == chat()


def test_a_stream_ends_with_done(post: Post) -> None:
    """The events end with [DONE], unless told otherwise; usage may be left out."""
    asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    answer = post(CHAT, chat(**asked))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"}\n\ndata: [DONE]\n\n")
    assert answer.body.count(b'"usage":{') == 1
    assert not post(CHAT, chat("[[no_done]]", **asked)).body.endswith(b"[DONE]\n\n")
    assert b'"usage":{' not in post(CHAT, chat("[[no_usage]]", **asked)).body
    assert b"usage" not in post(CHAT, chat("[[no_usage]]")).body


def test_false_usage(post: Post, openai_sim: OpenAISimulator) -> None:
    """A directive can claim any usage, and that is billed."""
    body = post(CHAT, chat("[[usage_prompt=1000 usage_completion=0]]")).json
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (1000, 0)
    assert (openai_sim.billed[0].prompt_tokens, openai_sim.billed[0].completion_tokens) == (1000, 0)


@pytest.mark.parametrize("split", ["line", "utf8"])
def test_split_writes_are_the_same_bytes(post: Post, open_stream: OpenStream, split: str) -> None:
    """Split events arrive in parts, and joined they are what they were."""
    connection = open_stream(f"[[tokens=5 text_emoji split={split}]]")
    received = b""
    torn = 0
    while not received.endswith(b"0\r\n\r\n"):
        received += connection.recv(65536)
        torn += not received.endswith((b"\n\n\r\n", b"0\r\n\r\n"))
    assert torn >= 3
    assert "🙂" in post(CHAT, chat(f"[[tokens=5 text_emoji split={split}]]", stream=True)).body.decode()


def test_bad_line_and_big_event(post: Post) -> None:
    """The odd events are there, and the stream goes on after them."""
    raw = post(CHAT, chat("[[tokens=4 bad_line big_event=70000]]", stream=True)).body
    assert b'data: {"id":"chatcmpl-\xc3\xa9\n\n' in raw
    assert max(len(line) for line in raw.splitlines()) > 70_000
    assert raw.endswith(b"[DONE]\n\n")


def test_delays(post: Post) -> None:
    """Chunks come one after the other; an answer in one piece takes as long."""
    for stream in (True, False):
        start = time.monotonic()
        post(CHAT, chat("[[tokens=5 first_delay=0.05 delay=0.02]]", stream=stream))
        assert time.monotonic() - start >= 0.13


# ------------------------------------------------------------------------------------- what is billed under disconnects


@pytest.mark.parametrize("n", [0, 1, 3])
def test_client_leaves_midway(openai_sim: OpenAISimulator, open_stream: OpenStream, n: int) -> None:
    """A client that leaves while the model pauses pays for the chunks it got, and for no other."""
    connection = open_stream(f"[[tokens=50 hang_after={n}]]")
    read_chunks(connection, n)
    wait_until(lambda: openai_sim.billed and openai_sim.billed[0].completion_tokens == n)
    assert openai_sim.billed[0].state == "running"
    connection.close()
    wait_until(lambda: openai_sim.billed[0].state == "cancelled")
    assert openai_sim.billed[0].completion_tokens == n


def test_client_leaves_during_a_delay(openai_sim: OpenAISimulator, open_stream: OpenStream) -> None:
    """Leaving between two chunks stops the generation at once."""
    connection = open_stream("[[tokens=50 delay=30]]")
    read_chunks(connection, 1)
    connection.close()
    wait_until(lambda: openai_sim.billed[0].state == "cancelled")
    assert openai_sim.billed[0].completion_tokens == 1


def test_client_leaves_a_fast_stream(openai_sim: OpenAISimulator, open_stream: OpenStream) -> None:
    """Without any delay, too, a client that leaves ends the stream long before its end."""
    connection = open_stream("[[tokens=100000]]")
    received = read_chunks(connection, 10).count(b'"delta":{"content"')
    connection.close()
    wait_until(lambda: openai_sim.billed[0].state == "cancelled")
    assert received <= openai_sim.billed[0].completion_tokens < 100_000


def test_a_client_that_does_not_read(openai_sim: OpenAISimulator, open_stream: OpenStream) -> None:
    """A stalled reader stalls the generation: what fits into the buffers is billed, and no more."""
    connection = open_stream("[[tokens=100000]]")
    seen: list[int] = []

    def is_stalled() -> bool:
        seen.append(openai_sim.billed[0].completion_tokens if openai_sim.billed else 0)
        return seen[-1] > 0 and seen[-30:].count(seen[-1]) == 30

    wait_until(is_stalled)
    assert 0 < seen[-1] < 100_000
    assert openai_sim.billed[0].state == "running"
    connection.close()
    wait_until(lambda: openai_sim.billed[0].state == "cancelled")


def test_client_leaves_before_a_whole_answer(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """An answer in one piece that nobody waits for is not billed."""
    connection = http.client.HTTPConnection("127.0.0.1", openai_server.port, timeout=PATIENCE_SECONDS)
    connection.request(
        "POST", CHAT, msgspec.json.encode(chat("[[first_delay=30]]")), {"Authorization": f"Bearer {openai_sim.api_key}"}
    )
    wait_until(lambda: openai_sim.billed)
    connection.close()
    wait_until(lambda: openai_sim.billed[0].state == "cancelled")
    assert openai_sim.billed[0].completion_tokens == 0


@pytest.mark.parametrize("n", [0, 1, 5])
def test_break_after(post: Post, openai_sim: OpenAISimulator, n: int) -> None:
    """The connection is cut after exactly so many chunks, without an end."""
    with pytest.raises(http.client.IncompleteRead) as cut:
        post(CHAT, chat(f"[[tokens=5 break_after={n}]]", stream=True))
    assert cut.value.partial.count(b'"delta":{"content":" ') == n
    assert b'finish_reason":"stop' not in cut.value.partial
    assert (openai_sim.billed[0].state, openai_sim.billed[0].completion_tokens) == ("broken", n)


def test_break_of_a_whole_answer(post: Post, openai_sim: OpenAISimulator) -> None:
    """An answer in one piece is cut in its middle."""
    with pytest.raises(http.client.IncompleteRead) as cut:
        post(CHAT, chat("[[break_after=1]]"))
    assert cut.value.expected is not None
    assert abs(len(cut.value.partial) - cut.value.expected) <= 1
    assert openai_sim.billed[0].state == "broken"


def test_stop_in_mid_stream(openai_sim: OpenAISimulator, openai_server: Server, open_stream: OpenStream) -> None:
    """When the whole service vanishes, its open streams are cancelled, and it comes back."""
    connection = open_stream("[[tokens=50 hang_after=2]]")
    read_chunks(connection, 2)
    openai_server.stop()
    assert (openai_sim.billed[0].state, openai_sim.billed[0].completion_tokens) == ("cancelled", 2)
    connection.close()
    openai_server.start()
    read_chunks(open_stream("[[tokens=2]]"), 2)


def test_control(post: Post, openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A test in another process switches faults and reads the bill without a key."""
    url = openai_server.url + "/_sim/"
    post(CHAT, chat())
    (bill,) = ask("GET", url + "billed").json
    assert (bill["request_id"], bill["completion_tokens"], bill["state"]) == ("req_7", 13, "complete")
    assert ask("GET", url + "calls").json[0]["body"] == chat()
    ask("POST", url + "faults", {"body": "garbage", "path_prefix": "/v1/models"})
    assert openai_sim.faults.body == b"garbage"
    assert post("/v1/models", method="GET").body == b"garbage"
    assert ask("POST", url + "faults", {}).json["body"] is None
    assert post("/v1/models", method="GET").status == 200
