"""Bytes pass through (P3): requests as the client wrote them, answers and streams as the provider wrote them."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, COMPLETIONS, chat, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ASK = b'"stream_options":{"include_usage":true}'


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url)


# -------------------------------------------------------------------------------------------------------- requests

MESSAGE = rb'"messages" : [ {"role":"user", "content":"caf\u00e9 \ud83d\ude00 \/"} ]'


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o",' + MESSAGE + b"}",
        b' \r\n\t{ "model" : "gpt-4o" ,\n\n' + MESSAGE + b"\t}  \n",
        b'{"model":"gpt-4o",' + MESSAGE + b',"user":"a","metadata":{"user":"a", "user":"b"}}',
        b'{"big":123456789012345678901234567890,"precise":0.10000000000000000555,"e":1E+2,"neg":-0.0,"model":"x",'
        + MESSAGE
        + b"}",
        b'{"model":"gpt-4o","max_tokens":null,"stream":null,"stream_options":null,"n":null,"tools":null,'
        + MESSAGE
        + b"}",
        b'{"model":"gpt-4o","stream":false,"new_field":{"a":[1,{"b":null}]},"":{},"\\u0061":1,' + MESSAGE + b"}",
        '{"model":"gpt-4o","user":"日本語 🙂 é","messages":[{"role":"user","content":"ё","x":"ÿ"}]}'.encode(),
        b'{"model":"gpt-4o","messages":[{"role":"developer","content":[{"type":"new","new":[1e3]}],"weight":1}]}',
        b'{"model":"gpt-4o","deep":' + b"[" * 500 + b"]" * 500 + b"," + MESSAGE + b"}",
    ],
    ids=range(9),
)
def test_a_request_reaches_the_provider_byte_for_byte(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, body: bytes
) -> None:
    """Where nothing must change, the provider gets the client's bytes: spaces, escapes, numbers and all."""
    provider.says(b'{"choices":[]}')
    assert post(sentinel, token, body).status == 200
    assert provider.posts()[-1].raw == body


def test_a_stream_that_asks_for_usage_is_sent_as_it_is(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """A client that asks for usage itself has its body sent untouched, extra stream options and all."""
    provider.streams(b"data: [DONE]\n\n")
    body = b'{"model":"gpt-4o","stream" : true, "stream_options":{ "include_usage":true ,"x":1},' + MESSAGE + b"}"
    assert post(sentinel, token, body).status == 200
    assert provider.posts()[-1].raw == body


@pytest.mark.parametrize("end", [b"}", b" }\n", b"\n}\r\n\t "])
def test_a_stream_gets_one_field_more_and_no_other_change(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, end: bytes
) -> None:
    """A stream without stream_options gets them behind the client's own bytes."""
    provider.streams(b"data: [DONE]\n\n")
    start = b'{ "model":"gpt-4o", "stream":true, "n": 1,  "m":1, "y":"\\u0041\\ud83d\\ude00", ' + MESSAGE
    assert post(sentinel, token, start + end).status == 200
    sent = provider.posts()[-1].raw
    assert sent.startswith(start)
    assert sent[len(start) :].strip() == b"," + ASK + b"}"


@pytest.mark.parametrize(
    "field",
    [
        b'"stream_options":null',
        b'"stream_options" :  null',
        b'"stream\\u005foptions":null',
        b'"stream_options":{}',
        b'"stream_options":{"include_usage":false}',
        b'"stream_options":{"include_usage":null, "include_obfuscation" : false}',
        b'"stream\\u005foptions":{"include_usage":false}',
        b'"max\\u005ftokens":null',
        b'"x":"\\"stream_options\\":null"',
        b'"x":"stream_options"',
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_usage_is_asked_for_whatever_the_client_wrote(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, field: bytes, path: str
) -> None:
    """However a client declines usage, the provider is asked for it, and nothing else of the request changes."""
    provider.streams(b"data: [DONE]\n\n")
    body = (
        b'{"model":"gpt-4o", "stream":true, %b, "big":1234567890123456789012, "t":1.10, "p\\u0061":"\\u00e9",' % field
    )
    body += (MESSAGE if path == CHAT else b'"prompt" : [ "a" ]') + b"}"
    assert post(sentinel, token, body, path).status == 200
    sent = provider.posts()[-1].raw
    given, got = json.loads(body), json.loads(sent)
    assert len(json.loads(sent, object_pairs_hook=list)) == len(got), "no name twice"
    assert got.pop("stream_options")["include_usage"] is True
    options = given.pop("stream_options", None)
    assert got == given
    for piece in (b"1234567890123456789012", b"1.10", b'"\\u00e9"'):
        assert piece in sent
    if options and "include_obfuscation" in options:
        assert b'"include_obfuscation":false' in sent


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (b'"max_tokens":500', {"max_tokens": 40}),
        (b'"max_completion_tokens":500', {"max_completion_tokens": 40}),
        (b'"max_tokens":500,"max_completion_tokens":20', {"max_tokens": 40, "max_completion_tokens": 20}),
        (b'"max_tokens":null', {"max_tokens": None, "max_completion_tokens": 40}),
        (b'"max\\u005fcompletion\\u005ftokens":null', {"max_completion_tokens": 40}),
        (b'"max_tokens":500,"n":4', {"max_tokens": 10}),
        (b'"x":1', {"max_completion_tokens": 40}),
        (b'"max_tokens":7', {"max_tokens": 7}),
    ],
    ids=range(8),
)
def test_a_maximum_is_lowered_to_what_is_left(
    stack: Stack,
    provider: ScriptedProvider,
    sentinel: SentinelProcess,
    fields: bytes,
    told: dict[str, int],
    request: Any,
) -> None:
    """Who has 40 output tokens left is served with at most 40; every other value keeps its bytes."""
    name = f"{request.node.callspec.indices['fields']}@corp.test"
    _, token = stack.user(name, limits={"ai_output_tokens": 40})
    provider.says(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    body = b'{"model":"gpt-4o",%b, "t":1.10, "big":1234567890123456789012,%b}' % (fields, MESSAGE)
    assert post(sentinel, token, body).status == 200
    sent = provider.posts()[-1].raw
    got, given = json.loads(sent), json.loads(body)
    bounds = {"max_tokens", "max_completion_tokens"}
    assert {name: got.pop(name) for name in bounds & got.keys()} == told
    assert got == {name: value for name, value in given.items() if name not in bounds}
    for piece in (b"1.10", b"1234567890123456789012", MESSAGE.partition(b":")[2].strip()):
        assert piece in sent


# --------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "body",
    [
        (
            b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi","refusal":null,"annotations":[]},'
            b'"logprobs":null,"finish_reason":"stop","new":1}],"usage":{"prompt_tokens":3,"completion_tokens":1,'
            b'"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}},"service_tier":"default","extra":{"a":[1.50]}}'
        ),
        b'\n { "choices" : [ ] , "n": 1.0000, "e":"\\u00e9\\/" }\n\n',
        b"{}",
        b'{"choices":[{"message":{"content":{"new":"shape"}}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}',
        b'{"choices":{"not":"a list"}}',
        b'{"usage":"none","choices":[{"message":{"content":"two words"}}]}',
    ],
    ids=range(6),
)
def test_an_answer_is_returned_byte_for_byte(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, body: bytes
) -> None:
    """What the provider answers is what the client gets, also where it has a shape that nobody here knows."""
    provider.says(body[:3], body[3:])
    answer = post(sentinel, token, chat())
    assert (answer.status, answer.body) == (200, body)


def test_usage_is_charged_even_if_the_rest_has_an_unknown_shape(
    stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess
) -> None:
    """The provider's numbers count although its choices could not be read."""
    _, token = stack.user("shape@corp.test")
    provider.says(b'{"choices":[{"message":{"content":{"a":1}}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}')
    assert post(sentinel, token, chat()).status == 200
    assert stack.booked(1, "shape@corp.test") == {"ai_requests": 1, "ai_input_tokens": 9, "ai_output_tokens": 2}


def test_odd_headers_of_the_provider_do_no_harm(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """A header that is no ASCII is passed as it is, or not at all; the answer passes."""
    provider.says(
        b"{}", headers=[("x-request-id", "caf\xe9"), ("openai-version", "\xff"), ("openai-processing-ms", "5")]
    )
    answer = post(sentinel, token, chat())
    assert (answer.status, answer.headers["openai-processing-ms"]) == (200, "5")
    assert answer.headers.get("openai-version", "\xff") == "\xff"


# --------------------------------------------------------------------------------------------------------- streams


def delta(text: str, **more: Any) -> bytes:
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": text}, **more}],
    }
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = delta("Grüße") + delta(" 🙂日本") + delta("", finish_reason="stop")


def every(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


CRLF = STREAM.replace(b"\n", b"\r\n")
ODD = {
    "as it is": [STREAM + DONE],
    "one event a write": [delta("a"), delta("b"), DONE],
    "cut in sevens": every(STREAM + DONE, 7),
    "cut in characters": [part for event in every(delta("é🙂"), 1) for part in (event,)] + [DONE],
    "CRLF": [CRLF + b"data: [DONE]\r\n\r\n"],
    "CRLF in fives": every(CRLF + b"data: [DONE]\r\n\r\n", 5),
    "comments": [b": ping\n\n" + delta("a") + b":\n\n: [DONE]\n\n" + delta("b") + DONE],
    "no space": [STREAM.replace(b"data: ", b"data:") + b"data:[DONE]\n\n"],
    "names and ids": [b"event: chunk\nid: 7\nretry: 100\n" + delta("a") + DONE],
    "several data lines": [b'data: {"choices":[{"delta":\ndata: {"content":"a"}}]}\n\n' + DONE],
    "a bad line": [delta("a") + b"data: {broken \xff\xfe\n\n" + b"rubbish\n\n" + delta("b") + DONE],
    "text that says done": [delta("[DONE]") + delta('data: [DONE] "usage":{') + DONE],
    "a big event": [*every(delta("x" * 100000), 16384), DONE],
    "a huge event": [*every(delta("y" * 700000), 65536), DONE],
    "no done": [STREAM],
    "no last blank line": [STREAM + b"data: [DONE]"],
    "an unfinished last event": [STREAM + b'data: {"choices":[{"delta":{"content":"z"}}]}'],
    "nothing": [b""],
    "an error event": [delta("a") + b'data: {"error":{"message":"overloaded","code":null}}\n\n'],
    "not a stream": [b'{"choices":[{"message":{"content":"a"}}]}'],
    "usage beside text": [b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":5}}\n\n' + DONE],
    "usage null": [delta("a").replace(b'{"id"', b'{"usage":null,"id"') + DONE],
}


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("writes", ODD.values(), ids=ODD)
def test_a_stream_passes_byte_for_byte(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, writes: list[bytes], asked: bool
) -> None:
    """Wherever writes are cut, and whatever stands between events, the client gets the provider's bytes."""
    provider.streams(*writes)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    answer = post(sentinel, token, chat(stream=True, **options))
    assert answer.status == 200
    assert answer.body == b"".join(writes)


@pytest.mark.parametrize(
    "writes", [[STREAM + USAGE + DONE], every(STREAM + USAGE + DONE, 11), [STREAM + USAGE]], ids=len
)
def test_the_usage_chunk_alone_is_withheld(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, writes: list[bytes]
) -> None:
    """A client that did not ask for usage gets everything else."""
    provider.streams(*writes)
    whole = b"".join(writes)
    assert post(sentinel, token, chat(stream=True)).body == whole.replace(USAGE, b"")
    assert post(sentinel, token, chat(stream=True, stream_options={"include_usage": True})).body == whole


def test_what_was_delivered_is_charged_whatever_the_framing(
    stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess
) -> None:
    """CRLF, an unfinished last event and writes cut anywhere cost what the text costs, here four tokens."""
    for index, writes in enumerate(
        ([delta(" one two") + delta(" three four")], every(delta(" one two three four").replace(b"\n", b"\r\n"), 9))
    ):
        email = f"framing{index}@corp.test"
        _, token = stack.user(email)
        provider.streams(*writes, b'data: {"choices":[{"index":0,"delta":{"content":" five"}}]}')
        assert post(sentinel, token, chat(stream=True)).status == 200
        assert stack.booked(1, email)["ai_output_tokens"] == 5


def test_bad_events_are_counted(provider: ScriptedProvider, sentinel: SentinelProcess, token: str) -> None:
    """An event that is no JSON shows in sentinel_sse_parse_errors_total."""
    name = 'sentinel_sse_parse_errors_total{endpoint="chat",model="gpt-4o-mini"}'
    before = sentinel.metric(name)
    provider.streams(delta("a"), b"data: {oops\n\n", b"data: [\n\n", DONE)
    assert post(sentinel, token, chat(stream=True)).status == 200
    wait_until(lambda: sentinel.metric(name) == before + 2, "two more")


def test_an_event_arrives_before_the_next_is_sent(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """Sentinel waits neither for the end of a stream nor for a second event."""
    gate = threading.Event()
    provider.streams(delta("first"), delta("second"), DONE, gate=gate)
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", CHAT, json.dumps(chat(stream=True)), {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    try:
        assert b"first" in answer.readline()
    finally:
        gate.set()
    assert answer.read().endswith(delta("second") + DONE)
    connection.close()


def test_the_headers_that_describe_the_body_pass(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str
) -> None:
    """The provider's content type and encoding are the client's, so that what is compressed stays readable."""
    provider.streams(DONE, headers=[("content-encoding", "identity")])
    answer = post(sentinel, token, chat(stream=True))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["content-encoding"] == "identity"
