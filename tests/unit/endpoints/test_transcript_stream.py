"""The stream of a transcript: metered, ended at a limit, and made of what came in one piece."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.audio import TranscriptionStreamEvent
from pydantic import TypeAdapter

from sentinel.endpoints.transcript_stream import MOST_KEPT_CHARS, TranscriptMeter, answer, ending
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.usage import Usage
from tests.support.damage import damaged, pieces_of, relayed
from tests.support.transcripts import TRANSCRIPTS, Transcript

EVENT: TypeAdapter[Any] = TypeAdapter(TranscriptionStreamEvent)


def meter() -> TranscriptMeter:
    return TranscriptMeter("gpt-4o-transcribe", NO_SECRET)


def read(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]


def words_of_deltas(events: list[bytes]) -> int:
    """How many words the pieces of a stream have."""
    found = read(b"".join(events))
    said = [
        each.get("delta") for each in found if each.get("type") == "transcript.text.delta" and not each.get("error")
    ]
    return sum(len(re.findall(r"[a-z]+", piece)) for piece in said if isinstance(piece, str))


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_what_it_costs(transcript: Transcript) -> None:
    """Each text once, though it is said up to three times; its usage comes last."""
    relay, got = relayed(transcript.data(), meter())
    assert got + relay.meter.done == b"".join(transcript.data())
    assert relay.delivered() == transcript.output_tokens
    assert (relay.meter.usage.prompt_tokens, relay.meter.usage.output_tokens) == transcript.usage
    assert (relay.meter.usage_is_final, relay.meter.malformed, relay.meter.is_broken) == (True, 0, False)


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_limit_ends_it_with_what_the_client_has(transcript: Transcript, room: int) -> None:
    """Which the SDK takes for its end."""
    relay, got = relayed(transcript.data(), meter(), room)
    if room >= transcript.output_tokens:
        assert not relay.at_limit
        return
    assert isinstance(relay.meter, TranscriptMeter)
    (last,) = read(ending(relay.meter, Usage(9, room)))
    assert EVENT.validate_python(last).type == "transcript.text.done"
    deltas = "".join(event.get("delta", "") for event in read(got))
    assert last["text"].startswith(deltas)
    assert len(re.findall(r"[a-z]+", last["text"])) == room
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (9, room)


def test_what_is_kept_is_bounded() -> None:
    """And nothing is kept of a stream that no limit ends."""
    event = b'data: {"type":"transcript.text.delta","delta":"%b"}\n\n' % (b"a " * 50_000)
    for limited in (True, False):
        own = meter()
        if limited:
            own.hold_whole()
        for _ in range(MOST_KEPT_CHARS // 100_000 + 5):
            own.measure(own.feed(event))
        assert own.kept_bytes > MOST_KEPT_CHARS
        assert sum(map(len, own.said)) <= (MOST_KEPT_CHARS if limited else 0)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b'{"text":"one","usage":{"seconds":1}}', [("delta", "one", None), ("done", "one", {"seconds": 1})]),
        (b'{"text":""}', [("done", "", None)]),
        (b"one two", [("delta", "one two", None), ("done", "one two", None)]),
    ],
)
def test_a_whole_answer_may_become_a_stream(body: bytes, events: list[Any]) -> None:
    """Its text in one piece; what is none is an error."""
    found = [
        (event["type"].rpartition(".")[2], event.get("delta", event.get("text")), event.get("usage"))
        for event in read(answer(body))
    ]
    assert found == events
    assert answer(b'{"error":{"message":"no"}}') == b'data: {"error":{"message":"no"}}\n\n'


def test_only_a_last_event_is_last() -> None:
    """What only looks so is read on."""
    own = meter()
    own.feed(b'data: [{"type":"transcript.text.done"}]\n\ndata: {"type":"x","usage":{}}\n\ndata: "usage":{\n\n')
    assert not own.is_done


@given(damaged(TRANSCRIPTS))
@settings(deadline=None, max_examples=400)
def test_nothing_goes_free(events: list[bytes]) -> None:
    """Damaged in any way, all bytes pass, nothing is raised, and what a reader finds is charged."""
    relay, got = relayed(events, meter())
    assert b"".join(events).startswith(got + relay.meter.done)
    delivered = [event for event in re.split(rb"(?<=\n\n)", got + relay.meter.done) if event]
    assert max(0, relay.delivered()) >= words_of_deltas(delivered), b"".join(events).decode()


@given(damaged(TRANSCRIPTS), st.integers(1, 6))
@settings(deadline=None, max_examples=400)
def test_no_limit_is_passed(events: list[bytes], room: int) -> None:
    """However a stream is damaged, it ends before the event that would go beyond the limit, and ends well."""
    relay, got = relayed(events, meter(), room)
    assert b"".join(events).startswith(got)
    assert words_of_deltas(re.findall(rb".+\n\n", got)) <= room
    assert relay.delivered() <= room


@given(damaged(TRANSCRIPTS), st.lists(st.integers(1, 80), max_size=30))
@settings(deadline=None, max_examples=200)
def test_cuts_do_not_matter(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, a damaged stream costs the same."""
    (relay, got), (other, other_got) = relayed(events, meter()), relayed(pieces_of(events, sizes), meter())
    assert got + relay.meter.done == other_got + other.meter.done
    assert (relay.delivered(), relay.meter.usage) == (other.delivered(), other.meter.usage)
