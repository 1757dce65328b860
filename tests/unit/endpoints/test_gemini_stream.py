"""The events of Gemini's streams: metered, the last one held back, ended at a limit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.gemini_stream import GeminiMeter, answer, ending, refusal
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.usage import Usage

ENVELOPE = {"modelVersion": "gemini-2.5-flash", "responseId": "r"}


def event(*words: str, reason: str | None = None, index: int = 0, **fields: Any) -> bytes:
    ended = {} if reason is None else {"finishReason": reason}
    parts = [{"text": word} for word in words]
    candidate = {"content": {"parts": parts, "role": "model"}, "index": index, **ended}
    return b"data: " + json.dumps({"candidates": [candidate], **ENVELOPE, **fields}).encode() + b"\n\n"


def usage(prompt: int, candidates: int) -> dict[str, Any]:
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": candidates, "totalTokenCount": prompt + candidates}
    return {"usageMetadata": counts}


ONE, TWO = event(" one", **usage(9, 1)), event(" two", **usage(9, 2))
LAST = event(" three", reason="STOP", **usage(9, 3))
ONLY_USAGE = b"data: " + json.dumps(usage(9, 30)).encode() + b"\n\n"


def metered(*pieces: bytes, model: str = "gpt-4o") -> tuple[GeminiMeter, bytes]:
    """A stream to its end, and what was given out of it before."""
    meter, given = GeminiMeter(model), b""
    for piece in pieces:
        block = meter.feed(piece)
        meter.delivered(block)
        given += block
    block = meter.rest()
    meter.delivered(block)
    meter.count()
    return meter, given + block


def test_the_last_event_is_held() -> None:
    """With what it says of usage; the others pass as they come."""
    meter = GeminiMeter("gpt-4o")
    assert meter.feed(ONE + TWO) == ONE + TWO
    assert meter.feed(LAST) == b""
    assert (meter.held_bytes, meter.is_done, meter.usage.output_tokens) == (len(LAST), False, 3)
    assert (meter.rest(), meter.done, meter.lacks_end()) == (b"", LAST, False)
    assert meter.end() == 1
    assert (meter.finish_reason, meter.usage_is_final, meter.may_trail) == ("STOP", True, False)


@pytest.mark.parametrize(
    ("rest", "given", "done"),
    [
        ([ONLY_USAGE], ONE + LAST, ONLY_USAGE),
        ([b": ping\n\n"], ONE, LAST + b": ping\n\n"),
        ([b": ping\n\n", ONLY_USAGE, b"\n"], ONE + LAST + b": ping\n\n", ONLY_USAGE + b"\n"),
        ([ONLY_USAGE, ONLY_USAGE[:-2]], ONE + LAST + ONLY_USAGE, ONLY_USAGE[:-2]),
        ([LAST[:-1]], ONE + LAST, LAST[:-1]),
        ([b"data: [DONE]\n\n"], ONE + LAST, b"data: [DONE]\n\n"),
        ([event(" four", index=1), event(" five", reason="STOP", index=1)], ONE + LAST + event(" four", index=1), None),
    ],
)
def test_whatever_follows_is_held_in_its_place(rest: list[bytes], given: bytes, done: bytes | None) -> None:
    """The event that none follows is the last."""
    meter, got = metered(ONE, LAST, *rest)
    assert (got, meter.done) == (given, rest[-1] if done is None else done)
    assert (meter.lacks_end(), meter.is_broken) == (False, False)


def test_all_at_once() -> None:
    """Cut anywhere."""
    whole = ONE + TWO + LAST
    for size in (1, 5, 64, len(whole)):
        meter, got = metered(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert (got, meter.done) == (ONE + TWO, LAST)
        assert (meter.end(), meter.usage.output_tokens) == (3, 3)


@pytest.mark.parametrize(
    ("pieces", "given", "lacks", "broke_off"),
    [
        ([ONE], ONE, True, False),
        ([ONE, TWO[:-2]], ONE + TWO[:-2] + b"\n\n", True, False),
        ([ONE, TWO[:-9]], ONE, True, True),
        ([LAST, TWO[:-9]], LAST, False, True),
        ([], b"", True, False),
        ([ONE, b'data: {"error":{"code":503}}\n\n'], ONE + b'data: {"error":{"code":503}}\n\n', False, False),
    ],
)
def test_a_stream_must_tell_why_it_ended(pieces: list[bytes], given: bytes, lacks: bool, broke_off: bool) -> None:
    """Else it broke off; what follows an event of it is an error of ours."""
    meter, got = metered(*pieces)
    assert (got, meter.lacks_end(), meter.broke_off, meter.done) == (given, lacks, broke_off, b"")


def test_a_text_that_speaks_of_the_end_is_text() -> None:
    """In JSON its quotation marks are escaped."""
    said = event('{"finishReason":"STOP"}')
    meter = GeminiMeter("gpt-4o")
    assert meter.feed(said) == said
    assert meter.feed(event(reason="FINISH_REASON_UNSPECIFIED")) != b""


def test_a_blocked_prompt_is_an_end() -> None:
    """It costs what the provider tells."""
    meter, got = metered(
        b'data: {"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9}}\n\n'
    )
    assert (got, meter.lacks_end(), meter.is_broken, meter.usage.prompt_tokens) == (b"", False, False, 9)


def test_a_picture_is_held_whole() -> None:
    """Also a large one, as what may be the last."""
    part = {"inlineData": {"mimeType": "image/png", "data": "A" * 600_000}}
    candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
    large = b"data: " + json.dumps({"candidates": [candidate], **usage(9, 1290)}).encode() + b"\n\n"
    meter, got = metered(large[:300_000], large[300_000:])
    assert (got, meter.done, meter.usage.output_tokens) == (b"", large, 1290)


def test_what_is_too_large_to_be_held_comes_in_its_place() -> None:
    """After what was held."""
    large = b"data: " + b"x" * (9 * 1024 * 1024)
    meter = GeminiMeter("gpt-4o")
    assert meter.feed(LAST) == b""
    assert meter.feed(large) == LAST + large
    assert meter.feed(b"y\n\n") == b"y\n\n"


def test_a_whole_answer_needs_no_events() -> None:
    """It came instead of a stream."""
    body = LAST.removeprefix(b"data: ").strip()
    meter, got = metered(body)
    assert (got + meter.done, meter.lacks_end()) == (body, False)


def test_our_key_is_blotted_out() -> None:
    """Of the last event, too."""
    meter = GeminiMeter("gpt-4o", Redactor("sk-secret-key-of-ours"))
    meter.feed(event("sk-secret-key-of-ours", reason="STOP"))
    meter.rest()
    assert meter.done
    assert b"secret" not in meter.done


def test_the_end_at_a_limit() -> None:
    """One event with the envelope of those before; each candidate that is open ends there."""
    meter, _ = metered(b": ping\n\n" + ONE, event(" two", index=1, reason="STOP"), event(" three"))
    told = json.loads(ending(meter, 2, Usage(9, 4)).removeprefix(b"data: "))
    assert [(each["index"], each["finishReason"]) for each in told["candidates"]] == [(0, "MAX_TOKENS")]
    counts = {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13}
    assert {name: told[name] for name in told if name != "candidates"} == {"usageMetadata": counts, **ENVELOPE}


@pytest.mark.parametrize("first", [b"", b'data: {nonsense "candidates"\n\n', b'data: ["candidates"]\n\n'])
def test_the_end_without_an_envelope(first: bytes) -> None:
    """It has at least the model."""
    meter = GeminiMeter("gpt-4o")
    meter.feed(first)
    told = json.loads(ending(meter, 1, Usage(9)).removeprefix(b"data: "))
    assert (told["modelVersion"], told["candidates"][0]["finishReason"]) == ("gpt-4o", "MAX_TOKENS")


def test_whole_answers_as_streams() -> None:
    """One event for each; what is no answer is an error."""
    assert answer(b'{"candidates":[]}') == b'data: {"candidates":[]}\n\n'
    assert answer(b'[{"a":1},{"b":2}]') == b'data: {"a":1}\n\ndata: {"b":2}\n\n'
    assert answer(b"<html>").startswith(b'data: {"error":{"code":200')


@pytest.mark.parametrize(
    ("status", "body", "code", "word", "message"),
    [
        (400, b'{"error":{"code":400,"message":"b","status":"X"}}', 400, "X", "b"),
        (400, b'[{"error":{"message":"b"}}]', 400, "INVALID_ARGUMENT", "b"),
        (404, b'{"error":"b"}', 404, "NOT_FOUND", "b"),
        (429, b"slow", 429, "RESOURCE_EXHAUSTED", "slow"),
        (503, b"", 503, "UNAVAILABLE", "The model provider refused the request."),
    ],
)
def test_a_refusal_as_the_last_event(status: int, body: bytes, code: int, word: str, message: str) -> None:
    """The provider's own error, or what it said in the shape of one."""
    told = json.loads(refusal(status, body).removeprefix(b"data: "))["error"]
    assert (told["code"], told["status"], told["message"]) == (code, word, message)
