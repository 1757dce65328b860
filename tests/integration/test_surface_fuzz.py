"""Whatever a caller sends: an answer or an error in OpenAI's shape, never a 5xx of ours, and the server lives on."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.client import Answer, answer_of
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, COMPLETIONS, head, read_answer, send
from tests.support.waiting import PATIENCE_SECONDS

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

numbers = st.integers() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
names = st.sampled_from(
    [
        "type",
        "text",
        "image_url",
        "url",
        "detail",
        "function",
        "name",
        "parameters",
        "properties",
        "items",
        "enum",
        "description",
        "required",
        "anyOf",
        "$ref",
        "role",
        "content",
        "arguments",
        "input_audio",
        "data",
        "file",
    ]
) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)

CHAT_FIELDS = (
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools"),
    *("functions", "tool_choice", "function_call", "response_format", "temperature", "stop", "user", "metadata"),
)
COMPLETION_FIELDS = (
    *("model", "prompt", "suffix", "stream", "stream_options", "max_tokens", "n", "best_of", "echo", "logprobs"),
)

messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "tool", "developer", "function"])
            | st.text(max_size=5)
        },
        optional={
            "content": values,
            "name": scalars,
            "tool_calls": values,
            "function_call": values,
            "refusal": scalars,
        },
    ),
    max_size=3,
)
tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.text(max_size=5)}, optional={"parameters": values}),
        }
    ),
    max_size=2,
)


def deep(depth: int) -> Any:
    """A JSON Schema as deep as that."""
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        provider.says(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
        yield provider


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url)


class Caller:
    """One caller over one connection, kept alive."""

    def __init__(self, sentinel: SentinelProcess, token: str) -> None:
        self.sentinel = sentinel
        self.token = token
        self.connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        self.connection.request("POST", path, body, {"Authorization": f"Bearer {self.token}", **headers})
        return answer_of(self.connection.getresponse())

    def sends(self, path: str, body: bytes) -> None:
        """Send a body, and look at what comes back."""
        answer = self.post(path, body)
        assert answer.headers["x-request-id"].startswith("req_")
        if answer.status == 200:
            assert answer.json["choices"] == []
        else:
            assert answer.status == 400, (answer.status, answer.body)
            assert answer.error["type"] == "invalid_request_error"
            assert answer.error["code"] in ("invalid_json", "invalid_type", "missing_required_parameter")


@pytest.fixture(scope="module")
def caller(stack: Stack, sentinel: SentinelProcess) -> Iterator[Caller]:
    _, token = stack.user("fuzz@corp.test")
    caller = Caller(sentinel, token)
    yield caller
    assert send(sentinel, "GET", "/health/ready").status == 200
    assert '"level":"error"' not in (sentinel.folder / "stdout").read_text()
    caller.connection.close()


@FUZZ
@given(fields=st.dictionaries(st.sampled_from(CHAT_FIELDS), values, max_size=5))
@example(fields={"tools": [{"type": "function", "function": {"name": "f", "parameters": deep(150)}}]})
@example(fields={"tools": [{"type": "function", "function": {"name": "f", "parameters": deep(300)}}]})
@example(fields={"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": deep(300)}}})
@example(fields={"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": [1]}}}]})
@example(fields={"tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"enum": {"b": 1}}}}}}]})
@example(fields={"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png,x"}]}]})
@example(
    fields={"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:;base64,/"}}]}]}
)
@example(fields={"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "é"}}]}]})
@example(fields={"messages": [{"role": "user", "content": "\x00\uffff" * 1000}]})
def test_random_values_in_known_fields(caller: Caller, fields: dict[str, Any]) -> None:
    """Any JSON in any field that we look at is taken or named."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **fields}
    caller.sends(CHAT, json.dumps(body).encode())


@FUZZ
@given(messages=messages, tools=tools, model=st.sampled_from(["gpt-4o", "gpt-4", "o3", "x"]), form=values)
def test_nearly_good_chats(caller: Caller, messages: Any, tools: Any, model: str, form: Any) -> None:
    """Requests that are almost right get as far as the counter, which takes whatever they hold."""
    body = {"model": model, "messages": messages, "tools": tools, "response_format": form}
    caller.sends(CHAT, json.dumps(body).encode())


@FUZZ
@given(fields=st.dictionaries(st.sampled_from(COMPLETION_FIELDS), values, max_size=5))
def test_random_values_in_completions(caller: Caller, fields: dict[str, Any]) -> None:
    """The same for the legacy route."""
    caller.sends(COMPLETIONS, json.dumps({"model": "davinci-002", "prompt": "hi", **fields}).encode())


GOOD = json.dumps(
    {
        "model": "gpt-4o",
        "stream": False,
        "max_tokens": 10,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "é🙂"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
    ensure_ascii=False,
).encode()


@FUZZ
@given(at=st.integers(0, len(GOOD)), cut=st.integers(0, 6), put=st.binary(max_size=4))
def test_damaged_bytes(caller: Caller, at: int, cut: int, put: bytes) -> None:
    """A good body with some bytes lost, added or changed is still JSON, or is told not to be."""
    caller.sends(CHAT, GOOD[:at] + put + GOOD[at + cut :])


@settings(FUZZ, max_examples=60)
@given(
    line=st.binary(min_size=1, max_size=40),
    rest=st.lists(st.binary(min_size=1, max_size=30), max_size=3),
)
def test_damaged_heads(caller: Caller, line: bytes, rest: list[bytes]) -> None:
    """Bytes that are no HTTP get a 4xx in OpenAI's shape, or nothing where nothing was asked yet."""
    with raw_connection(caller.sentinel) as connection:
        connection.sendall(b"\r\n".join([b"GET /" + line + b" HTTP/1.1", *rest, b"connection: close", b"", b""]))
        answer = read_answer(connection)
        assert 400 <= answer.status < 500
        assert answer.error["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"].startswith("req_")


@settings(FUZZ, max_examples=60)
@given(
    path=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "TRACE"]),
    origin=st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20),
)
def test_random_paths(caller: Caller, path: str, method: str, origin: str) -> None:
    """Any path and method below /v1 is answered with a 4xx or served."""
    with raw_connection(caller.sentinel) as connection:
        lines = [f"authorization: Bearer {caller.token}", "connection: close"]
        start = head(f"/v1/{path}", method, lines).replace(
            b"\r\n\r\n", b"\r\norigin: %b\r\n\r\n" % origin.encode("latin-1")
        )
        connection.sendall(start)
        data = b""
        while piece := connection.recv(65536):
            data += piece
    status = int(data.split(b" ", 2)[1])
    assert status < 500, data
    assert b"x-request-id: req_" in data
