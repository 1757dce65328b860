"""Our key at the provider reaches no client and no log, even if the provider repeats it (P4)."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest

from tests.support.client import Answer
from tests.support.scripted import EVENTS, Script, ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, COMPLETIONS, GENERATE, RESPONSES, STORES, asked, chat, post, send, streaming

KEY = "sk-proj-Zq8/Kf3+TxVbN0m_WcR7yLhJ2uGdE5"
BLOT = "[redacted]"
ECHO = f"Incorrect API key provided: Bearer {KEY}."
CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"

metered = pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, GENERATE, STORES])
both = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url, OPENAI_API_KEY=KEY, LOG_LEVEL="debug")


def ask(sentinel: SentinelProcess, token: str, path: str = CHAT, **fields: Any) -> Answer:
    """An answer, after a look whether the key is in it in any way that a client could read."""
    answer = post(sentinel, token, asked(path, **fields), streaming(path, bool(fields.get("stream"))))
    everything = f"{answer.headers}{answer.body!r}"
    assert KEY not in everything
    assert KEY not in json.dumps(everything).encode().decode("unicode_escape")
    assert int(answer.headers.get("content-length", len(answer.body))) == len(answer.body)
    return answer


@metered
def test_an_event_that_is_relayed_in_pieces_passes_without_our_key(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str
) -> None:
    """Also where one piece ends within it."""
    for size in (200_000, 300_000):
        text = "x" * size + KEY + "y" * 100_000 + KEY
        data = b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"
        cut = data.index(KEY.encode()) + 9
        provider.streams(data[:cut], data[cut:], DONE)
        answer = ask(sentinel, token, path, stream=True)
        assert answer.body == data.replace(KEY.encode(), BLOT.encode()) + DONE


@metered
@both
@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429])
def test_a_refusal_passes_without_our_key(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str, stream: bool, status: int
) -> None:
    """All else of it passes as it is, and its length is right."""
    provider.says(json.dumps({"error": {"message": ECHO, "key": KEY, "masked": "sk-...uGdE5"}}).encode(), status=status)
    answer = ask(sentinel, token, path, stream=stream)
    assert answer.status == status
    assert answer.json == {"error": {"message": ECHO.replace(KEY, BLOT), "key": BLOT, "masked": "sk-...uGdE5"}}


@both
@pytest.mark.parametrize(
    "echo",
    [
        json.dumps(ECHO).replace("/", "\\/"),
        "".join(f"\\u{ord(c):04X}" for c in KEY),
        json.dumps({"error": json.dumps({"inner": KEY}).replace("/", "\\/")}),
        f"https://api.test/?key={KEY.replace('/', '%2F').replace('+', '%2B')}",
        f"<p>{ECHO}</p>",
    ],
    ids=range(5),
)
def test_the_key_is_found_in_any_spelling(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, echo: str, stream: bool
) -> None:
    """As JSON, JSON in JSON, URLs and plain text have it."""
    for size in (0, 50_000):
        provider.says(echo.encode() + b" " * size, status=400, content_type="text/plain")
        answer = ask(sentinel, token, stream=stream)
        assert answer.body.rstrip().count(BLOT.encode()) == 1
        assert len(answer.body) > size


@both
@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("X-GZip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)],
)
def test_a_coded_refusal_is_looked_into(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, coding: str, encode: object, stream: bool
) -> None:
    """Although none was asked for; the client gets it as it reads."""
    body = encode(json.dumps({"error": {"message": ECHO}}).encode())  # type: ignore[operator]
    provider.says(body, status=422, headers=[("Content-Encoding", coding)])
    answer = ask(sentinel, token, stream=stream)
    assert (answer.status, answer.json["error"]["message"]) == (422, ECHO.replace(KEY, BLOT))
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(("coding", "body"), [("gzip", ECHO.encode()), ("foo", ECHO.encode()), ("br", b"")])
def test_what_cannot_be_looked_into_does_not_pass(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, coding: str, body: bytes
) -> None:
    """A refusal in no known coding is a broken answer."""
    provider.says(body, status=400, headers=[("content-encoding", coding)])
    assert ask(sentinel, token).is_error(502, "upstream_error", "server_error")


@both
@pytest.mark.parametrize("status", [200, 400])
def test_no_header_has_our_key(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, status: int, stream: bool
) -> None:
    """Of those that pass: types, times, the provider's id, which is logged, too."""
    headers = [("x-request-id", f"id-{KEY}"), ("retry-after", KEY), ("openai-version", KEY)]
    provider.script = Script(
        [CHUNK, DONE] if stream and status == 200 else [b'{"choices":[]}'],
        status=status,
        content_type=f"{EVENTS if stream else 'application/json'}; key={KEY}",
        headers=headers,
    )
    answer = ask(sentinel, token, stream=stream)
    assert answer.status == status
    assert answer.headers["x-upstream-request-id"] == f"id-{BLOT}"
    assert answer.headers["content-type"].endswith(f"; key={BLOT}")


@metered
def test_a_whole_answer_has_not_our_key(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str
) -> None:
    """Whatever it says with status 200, such as an error."""
    provider.says(json.dumps({"error": {"message": ECHO}}).encode())
    assert ask(sentinel, token, path).json["error"]["message"] == ECHO.replace(KEY, BLOT)
    assert ask(sentinel, token, path, stream=True).json["error"]["message"] == ECHO.replace(KEY, BLOT)


@metered
@pytest.mark.parametrize("before", [b"", CHUNK])
@pytest.mark.parametrize("cut", [1, 40, 80, 100])
def test_no_event_has_our_key(
    provider: ScriptedProvider, sentinel: SentinelProcess, token: str, path: str, before: bytes, cut: int
) -> None:
    """First or later, and wherever its bytes are cut on their way; what is around it is untouched."""
    event = b"data: " + json.dumps({"error": {"message": ECHO}}).encode() + b"\n\n"
    provider.streams(before + event[:cut], event[cut:], DONE)
    answer = ask(sentinel, token, path, stream=True)
    assert answer.body == before + event.replace(KEY.encode(), BLOT.encode()) + DONE


def test_no_list_of_models_has_our_key(stack: Stack, provider: ScriptedProvider, token: str) -> None:
    """Neither the list nor one model."""
    provider.models = Script([json.dumps({"data": [{"id": "m", "owner": KEY}], "key": KEY}).encode()])
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url, OPENAI_API_KEY=KEY)
    for name in ("", "/m", "/other"):
        answer = send(sentinel, "GET", f"/v1/models{name}", token)
        assert answer.status == 200
        assert KEY.encode() not in answer.body
        assert BLOT.encode() in answer.body


def test_our_key_is_in_no_log(stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess, token: str) -> None:
    """Whatever the provider answers, at the most talkative level."""
    for status in (200, 302, 400, 401, 500):
        for stream in (False, True):
            provider.says(ECHO.encode(), status=status, headers=[("x-request-id", KEY), ("location", f"/{KEY}")])
            ask(sentinel, token, stream=stream)
    sentinel.ended(10)
    for process in stack.sentinels:
        for name in ("stdout", "stderr"):
            assert KEY not in (process.folder / name).read_text()


def test_a_short_key_spoils_no_answer(stack: Stack, provider: ScriptedProvider, token: str) -> None:
    """Servers of one's own are given words for a key."""
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url, OPENAI_API_KEY="choices")
    provider.says(b'{"choices":[]}')
    assert post(sentinel, token, chat()).json == {"choices": []}
