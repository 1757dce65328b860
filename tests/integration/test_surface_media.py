"""What holds for every format beside text, whole and as a stream: admission, books, secrets, bytes, failures.

About: `dev/media.py`, `dev/plan.py`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from typing import Any

import pytest

from tests.support.client import Answer, request_beside
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import (
    COMPACT,
    EDITS,
    GENERATIONS,
    MODERATIONS,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    VARIATIONS,
    encoded,
    head,
    send,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_faults")

KEY = "sk-a-key-of-the-provider-that-is-long-0123456789"
AS_EVENTS: dict[str, dict[str, Any]] = {
    GENERATIONS: {"stream": True, "partial_images": 1},
    EDITS: {"stream": True},
    TRANSCRIPTIONS: {"stream": True},
    SPEECH: {"stream_format": "sse"},
}
ALL = [
    *((path, {}) for path in (MODERATIONS, COMPACT, GENERATIONS, EDITS, VARIATIONS)),
    *((path, {}) for path in (TRANSCRIPTIONS, TRANSLATIONS, SPEECH)),
    *AS_EVENTS.items(),
]
whatever = pytest.mark.parametrize(
    ("path", "fields"), ALL, ids=[f"{path.removeprefix('/v1/')}{'-stream' * bool(fields)}" for path, fields in ALL]
)
PROMPT = "[[tokens=5]] hello"


def ask(
    sentinel: SentinelProcess, token: str, path: str, fields: dict[str, Any], text: str = PROMPT, **headers: str
) -> Answer:
    body, kind = encoded(path, text, **fields)
    return send(sentinel, "POST", path, token, body, Content_Type=kind, **headers)


def name_of(path: str, fields: dict[str, Any], what: str) -> str:
    return f"{what}{path.replace('/', '-')}-{len(fields)}@corp.test"


@pytest.fixture(scope="module")
def scripted(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url, OPENAI_API_KEY=KEY, LOG_LEVEL="debug")


@whatever
async def test_a_crowd_is_admitted_exactly(
    stack: Stack, sentinel: SentinelProcess, path: str, fields: dict[str, Any]
) -> None:
    """Ten requests of forty; the provider sees ten, and Zion books what they cost there."""
    email = name_of(path, fields, "crowd")
    _, token = stack.user(email, limits={"ai_requests": 10})
    body, kind = encoded(path, PROMPT, **fields)
    headers = {"authorization": f"Bearer {token}", "content-type": kind}
    answers = await asyncio.gather(*(request_beside(sentinel.port, path, body, headers) for _ in range(40)))
    passed = [answer for answer in answers if answer.status == 200]
    assert (len(passed), {answer.status for answer in answers}) == (10, {200, 429})
    ids = {answer.headers["x-request-id"] for answer in answers}
    bills = [bill for bill in list(stack.simulators.openai.billed) if bill.request_id in ids]
    assert len(bills) == 10
    booked = stack.booked(10, email)
    assert booked["ai_requests"] == 10
    if path not in (TRANSLATIONS, SPEECH, VARIATIONS):
        # Those tell no usage in tokens.
        assert booked["ai_input_tokens"] == sum(bill.prompt_tokens for bill in bills)
        assert booked["ai_output_tokens"] == sum(bill.completion_tokens for bill in bills)


@whatever
def test_an_answer_carries_its_headers(
    stack: Stack, sentinel: SentinelProcess, path: str, fields: dict[str, Any]
) -> None:
    """Ids, our own time and what is left."""
    _, token = stack.user(name_of(path, fields, "headers"), limits={"ai_requests": 5})
    answer = ask(sentinel, token, path, fields)
    assert answer.status == 200, answer.body
    assert answer.headers["x-upstream-request-id"].startswith("req_")
    assert float(answer.headers["x-sentinel-overhead-ms"]) >= 0
    assert answer.headers["x-sentinel-quota-remaining-requests"] == "4"


@whatever
@pytest.mark.parametrize("spelled", ["{}/", "/{}", "/v1{}"])
def test_a_path_is_served_in_place(
    stack: Stack, sentinel: SentinelProcess, token: str, path: str, fields: dict[str, Any], spelled: str
) -> None:
    """However a client has put it together."""
    body, kind = encoded(path, PROMPT, **fields)
    assert send(sentinel, "POST", spelled.format(path), token, body, Content_Type=kind).status == 200
    assert stack.simulators.openai.calls[-1].path == path


@whatever
def test_a_coded_body_is_as_good_as_another(
    stack: Stack, sentinel: SentinelProcess, token: str, path: str, fields: dict[str, Any]
) -> None:
    """It is sent on decoded, with the content type that it came with."""
    body, kind = encoded(path, PROMPT, **fields)
    answer = send(sentinel, "POST", path, token, gzip.compress(body), Content_Type=kind, Content_Encoding="gzip")
    assert answer.status == 200
    call = stack.simulators.openai.calls[-1]
    assert (call.raw, call.headers["content-type"]) == (body, kind)


@whatever
@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_a_refusal_costs_nothing(
    stack: Stack, sentinel: SentinelProcess, path: str, fields: dict[str, Any], status: int
) -> None:
    """The provider's 4xx passes in its words, its 5xx is a 502; the next request has all that was left."""
    _, token = stack.user(f"{status}{name_of(path, fields, 'refused')}", limits={"ai_requests": 1})
    answer = ask(sentinel, token, path, fields, f"[[status={status}]]")
    assert answer.status == (502 if status == 500 else status)
    assert ask(sentinel, token, path, fields).status == 200


@whatever
def test_our_key_never_passes(
    provider: ScriptedProvider, scripted: SentinelProcess, token: str, path: str, fields: dict[str, Any]
) -> None:
    """In answers, streams, sound and refusals, also where it comes in two pieces; nor does the client's token leave."""
    told = {"text": f"{KEY} and {KEY}", "type": "transcript.text.delta", "delta": KEY, "data": [KEY], "object": KEY}
    data = json.dumps(told).encode()
    for status in (200, 400):
        if fields:
            sent = b"data: " + data + b"\n\n"
            provider.streams(sent[:40], sent[40:60], sent[60:], status=status)
        else:
            kind = "audio/mpeg" if path == SPEECH else "application/json"
            provider.says(data[:40], data[40:], status=status, content_type=kind)
        answer = ask(scripted, token, path, fields)
        assert KEY.encode() not in answer.body
        assert KEY not in str(answer.headers)
        call = provider.posts()[-1]
        assert token not in str(call.headers)
        assert call.headers["authorization"] == f"Bearer {KEY}"


@whatever
def test_who_leaves_before_the_answer_pays_for_the_input(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess, path: str, fields: dict[str, Any]
) -> None:
    """The provider has the request, and may bill it."""
    email = name_of(path, fields, "leaves")
    _, token = stack.user(email)
    body, kind = encoded(path, "hello there", **fields)
    late, before = threading.Event(), len(provider.posts())
    provider.says(b"{}", late=late)
    lines = [f"authorization: Bearer {token}", f"content-type: {kind}", f"content-length: {len(body)}"]
    with raw_connection(scripted) as connection:
        connection.sendall(head(path, headers=lines) + body)
        wait_until(lambda: len(provider.posts()) > before)
    booked = stack.booked(1, email)
    late.set()
    assert booked["ai_requests"] == 1
    assert booked["ai_input_tokens"] > 0 or path == MODERATIONS


@pytest.mark.parametrize("path", list(AS_EVENTS))
def test_a_stream_that_breaks_ends_with_an_error(
    stack: Stack, provider: ScriptedProvider, scripted: SentinelProcess, path: str
) -> None:
    """That SDKs look for; what was delivered is paid for."""
    email = name_of(path, {}, "breaks")
    _, token = stack.user(email)
    kinds = {
        GENERATIONS: {"type": "image_generation.partial_image", "b64_json": "AAAA" * 100},
        EDITS: {"type": "image_edit.partial_image", "b64_json": "AAAA" * 100},
        TRANSCRIPTIONS: {"type": "transcript.text.delta", "delta": " one two"},
        SPEECH: {"type": "speech.audio.delta", "audio": "AAAA" * 1000},
    }
    sent = b"data: " + json.dumps(kinds[path]).encode() + b"\n\n"
    provider.streams(sent, cut=True)
    answer = ask(scripted, token, path, AS_EVENTS[path])
    assert answer.body.startswith(sent)
    assert b'"error"' in answer.body.removeprefix(sent)
    assert stack.booked(1, email)["ai_output_tokens"] >= 2


@pytest.fixture(scope="module")
def impatient(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url, STREAM_KEEPALIVE_SECONDS="0.2")


@pytest.mark.parametrize("path", list(AS_EVENTS))
def test_a_silent_stream_is_kept_alive(
    stack: Stack, provider: ScriptedProvider, impatient: SentinelProcess, path: str
) -> None:
    """With comments, until the provider speaks."""
    _, token = stack.user(name_of(path, {}, "silent"))
    late = threading.Event()
    done = {
        GENERATIONS: "image_generation.completed",
        EDITS: "image_edit.completed",
        TRANSCRIPTIONS: "transcript.text.done",
        SPEECH: "speech.audio.done",
    }[path]
    sent = b"data: " + json.dumps({"type": done, "text": "", "usage": {"input_tokens": 1, "output_tokens": 2}}).encode()
    provider.streams(sent + b"\n\n", late=late)
    threading.Timer(1.0, late.set).start()
    answer = ask(impatient, token, path, AS_EVENTS[path])
    assert answer.body.startswith(b": keep-alive\n")
    assert answer.body.endswith(sent + b"\n\n")
