"""Streams of base64: they pass as they come, in whatever pieces, and only what is around the base64 is read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.encoded_stream import MOST_READ_BYTES, EncodedMeter, without_encoded
from sentinel.endpoints.images import IMAGE_GENERATIONS, ImagesMeter
from sentinel.endpoints.speech import SPEECH, SpeechMeter
from sentinel.proxy.redaction import NO_SECRET, Redactor
from sentinel.tokens.usage import NOTHING
from tests.support.damage import damaged, pieces_of, relayed
from tests.support.transcripts import IMAGES, SPOKEN

KEY = "sk-a-key-that-is-long-enough-0123456789"
IMAGE = base64.b64encode(bytes(range(256)) * 40).decode()
BOUND = 710
"""Of one image in low quality."""


def images(n: int = 1, redactor: Redactor = NO_SECRET, **fields: Any) -> ImagesMeter:
    asked = {"model": "gpt-image-2", "prompt": "x", "quality": "low", "stream": True, "n": n, **fields}
    return IMAGE_GENERATIONS.meter(IMAGE_GENERATIONS.read(json.dumps(asked).encode()), redactor)


def speech(model: str = "gpt-4o-mini-tts", **fields: Any) -> SpeechMeter:
    asked = {"model": model, "input": "x", "stream_format": "sse", "response_format": "pcm", **fields}
    return SPEECH.meter(SPEECH.read(json.dumps(asked).encode()), NO_SECRET)


def event(kind: str, end: bytes = b"\n\n", **fields: Any) -> bytes:
    name = f"image_generation.{kind}"
    return b"event: %b\ndata: %b%b" % (name.encode(), json.dumps({"type": name, **fields}).encode(), end)


PARTIAL = event("partial_image", b64_json=IMAGE, partial_image_index=0)
COMPLETED = event("completed", b64_json=IMAGE, usage={"input_tokens": 9, "output_tokens": 272})


def fed(meter: EncodedMeter, data: bytes) -> bytes:
    """What the client gets of it."""
    block = meter.feed(data)
    meter.delivered(block)
    return block


@pytest.mark.parametrize("size", [1, 3, 60, 1_000, 100_000])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_all_passes_but_the_end_of_the_last_event(size: int, end: bytes) -> None:
    """That waits until usage is durable; what came before it is the client's at once."""
    meter, whole = images(), (PARTIAL + COMPLETED).replace(b"\n", end[: len(end) // 2])
    given = b"".join(fed(meter, whole[at : at + size]) for at in range(0, len(whole), size))
    assert given + meter.done == whole
    assert meter.done == end[: len(meter.done)] or meter.done == end
    assert meter.is_done
    assert not meter.is_inside
    assert (meter.usage.prompt_tokens, meter.usage.output_tokens) == (9, 272)
    assert meter.usage_is_final
    assert (meter.count(), meter.end()) == (BOUND, BOUND)
    assert meter.rest() == b""


def test_nothing_is_held_of_an_event() -> None:
    """However large it is."""
    meter = images()
    for _ in range(200):
        piece = b"A" * 4_096
        assert len(meter.feed(piece)) == len(piece)
        assert meter.held_bytes < 200
    assert meter.is_inside
    assert (meter.kept_bytes, meter.waiting_bytes, meter.unfinished) == (0, 0, b"")
    meter.hold_whole()
    meter.delivered(b"")


def test_an_image_is_charged_at_the_most_until_usage_is_told() -> None:
    """A partial one, too, once its client has it; no event costs nothing."""
    meter = images()
    assert (meter.count(), meter.generated) == (0, False)
    block = meter.feed(b": comment\n\n" + PARTIAL)
    assert (meter.count(), meter.generated) == (0, False)
    meter.delivered(block)
    assert (meter.count(), meter.generated, meter.usage_is_final) == (BOUND, True, False)
    fed(meter, PARTIAL)
    assert meter.count() == BOUND


def test_usage_of_several_images_adds_up() -> None:
    """Nothing says that one tells of all."""
    meter = images(2)
    assert meter.feed(COMPLETED) == COMPLETED
    assert meter.done == b""
    meter.feed(COMPLETED + b"data: [DONE]\n\n")
    assert (meter.usage.prompt_tokens, meter.usage.output_tokens) == (18, 544)
    assert (meter.done, meter.trail) == (b"\n\n", b"data: [DONE]\n\n")


def test_done_is_an_end_as_well() -> None:
    """Where a provider sends fewer images than were asked for."""
    meter = images(2)
    meter.feed(COMPLETED + b"data: [DONE]\n\n")
    assert meter.done == b"\n\n"


@pytest.mark.parametrize(
    ("sent", "given", "done", "broke"),
    [
        (COMPLETED[:-1], b"", b"\n\n\n", False),
        (COMPLETED[:-2], b"", b"\n\n", False),
        (PARTIAL[:-2], b"\n\n", b"", False),
        (PARTIAL[:-9], b"\n\n", b"", True),
        (PARTIAL + b"\n", b"\n", b"", False),
    ],
)
def test_the_end_of_a_stream(sent: bytes, given: bytes, done: bytes, broke: bool) -> None:
    """An event without its blank line is whole, or it broke off."""
    meter = images()
    meter.feed(sent)
    assert (meter.rest(), meter.done, meter.broke_off) == (given, done, broke)


def test_a_stream_that_is_cut_before_anything_of_an_event() -> None:
    """The client has nothing of it."""
    meter = images(redactor=Redactor(KEY))
    assert meter.feed(b"data: {") == b""
    assert (meter.rest(), meter.broke_off) == (b"", True)


def test_an_error_is_one() -> None:
    """And costs nothing."""
    meter = images()
    meter.feed(b'data: {"error":{"message":"no"}}\n\n')
    assert (meter.failed, meter.count(), meter.lacks_end()) == (True, 0, False)


@pytest.mark.parametrize("data", [b"data: nonsense\n\n", b"data: " + b"a b " * MOST_READ_BYTES + b"\n\n"])
def test_what_cannot_be_read_is_charged(data: bytes) -> None:
    """At the most."""
    meter = images()
    assert fed(meter, data) == data
    assert (meter.malformed, meter.count()) == (1, BOUND)


def test_pieces_may_be_shorter_than_any_base64() -> None:
    """They are put together before anything is given up."""
    meter, data = images(), event("completed", b64_json="A" * (3 * MOST_READ_BYTES), usage={"output_tokens": 5})
    for at in range(0, len(data), 50):
        meter.feed(data[at : at + 50])
    assert (meter.malformed, meter.usage.output_tokens, meter.is_done) == (0, 5, True)


@pytest.mark.parametrize("size", [7, 4_096])
def test_our_key_never_passes(size: int) -> None:
    """Wherever it is cut."""
    meter, data = images(redactor=Redactor(KEY)), event("partial_image", b64_json=IMAGE + KEY + IMAGE, note=KEY)
    given = b"".join(meter.feed(data[at : at + size]) for at in range(0, len(data), size)) + meter.rest()
    assert KEY.encode() not in given
    assert given.count(b"[redacted]") == 2


def test_base64_is_taken_out_in_steps() -> None:
    """What is left is the same as in one."""
    assert without_encoded(b'{"a":"%b","b":1}' % (b"A" * 300_000)) == b'{"a":"","b":1}'


def test_sound_is_charged_by_its_length_until_usage_is_told() -> None:
    """Of a model that bills it."""
    second = base64.b64encode(b"\0" * 48_000).decode()
    told = json.dumps({"type": "speech.audio.delta", "audio": second})
    for meter, tokens in ((speech(), 21), (speech("tts-1"), 0)):
        fed(meter, b"data: %b\n\n" % told.encode())
        assert meter.count() == tokens
        assert meter.lacks_end()
        meter.feed(b'data: {"type":"speech.audio.done","usage":{"input_tokens":2,"output_tokens":7}}\n\n')
        assert (meter.is_done, meter.usage.output_tokens, meter.lacks_end()) == (True, 7, False)


@pytest.mark.parametrize("transcript", [*IMAGES, *SPOKEN])
def test_what_it_costs(transcript: Any) -> None:
    """As its usage says; all passes."""
    meter = images(partial_images=1) if transcript in IMAGES else speech()
    relay, got = relayed(transcript.data(), meter)
    assert got + relay.meter.done == b"".join(transcript.data())
    assert (relay.meter.usage.prompt_tokens, relay.meter.usage.output_tokens) == transcript.usage
    assert relay.meter.usage_is_final == (transcript.usage != (0, 0))


@given(damaged([*IMAGES, *SPOKEN]), st.lists(st.integers(1, 80), max_size=30))
@settings(deadline=None, max_examples=300)
def test_damaged_streams_pass_and_none_is_free(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, they cost the same; whatever was generated is charged, or its usage told."""
    whole = b"".join(events)
    for make in (images, speech):
        (relay, got), (other, other_got) = relayed(events, make()), relayed(pieces_of(events, sizes), make())
        assert whole.startswith(got + relay.meter.done)
        assert got + relay.meter.done == other_got + other.meter.done
        assert (relay.delivered(), relay.meter.usage) == (other.delivered(), other.meter.usage)
    relay, _ = relayed(events, images())
    is_error = relay.meter.failed or relay.meter.broke_off
    assert is_error or relay.delivered() == BOUND or relay.meter.usage != NOTHING
