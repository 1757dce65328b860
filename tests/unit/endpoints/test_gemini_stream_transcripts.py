"""Streams of Gemini, as they are and damaged: relayed unchanged, and never charged less than they hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.gemini_stream import GeminiMeter, ending
from sentinel.proxy.json_array import ArrayReader, ArrayWriter
from sentinel.tokens.usage import Usage
from tests.support.damage import damaged, pieces_of, relayed
from tests.support.transcripts import GEMINI_OWN, Transcript

_NOT_GENERATED = ("codeExecutionResult", "thoughtSignature", "language", "inlineData", "thought", "id")


def meter() -> GeminiMeter:
    return GeminiMeter("gpt-4o-mini")


def words(value: Any) -> int:
    """How many words all strings in a value have."""
    if isinstance(value, str):
        return len(re.findall(r"[a-z]+", value))
    if isinstance(value, dict):
        return sum(words(inner) for key, inner in value.items() if key not in _NOT_GENERATED)
    return sum(map(words, value)) if isinstance(value, list) else 0


def words_of_parts(events: list[bytes]) -> int:
    """How many words the parts of a stream have that a client's library would show."""
    found = 0
    for event in events:
        answer = json.loads(event.removeprefix(b"data: "))
        candidates = answer.get("candidates") if isinstance(answer, dict) else None
        for candidate in candidates if isinstance(candidates, list) else [candidates]:
            content = candidate.get("content") if isinstance(candidate, dict) else None
            parts = content.get("parts") if isinstance(content, dict) else None
            shown = [part for part in (parts if isinstance(parts, list) else [parts]) if isinstance(part, dict)]
            found += sum(words(part.get("text")) for part in shown)
    return found


@pytest.mark.parametrize("transcript", GEMINI_OWN)
def test_what_it_costs(transcript: Transcript) -> None:
    """Each is counted exactly; its usage is final, wherever it comes."""
    relay, got = relayed(transcript.data(), meter())
    assert got + relay.meter.done == b"".join(transcript.data())
    assert relay.meter.done == transcript.data()[-1]
    assert relay.delivered() == transcript.output_tokens
    assert (relay.meter.usage.prompt_tokens, relay.meter.usage.output_tokens) == transcript.usage
    assert relay.meter.usage_is_final == (transcript.usage != (0, 0))
    assert (relay.meter.malformed, relay.meter.is_broken) == (0, False)


@pytest.mark.parametrize("transcript", GEMINI_OWN)
def test_as_an_array_it_costs_the_same(transcript: Transcript) -> None:
    """And has the same items."""
    array = json.dumps(transcript.events, indent=2).encode()
    reader, writer = ArrayReader(), ArrayWriter()
    relay, got = relayed([reader.feed(array[at : at + 50]) for at in range(0, len(array), 50)], meter())
    assert relay.delivered() == transcript.output_tokens
    assert (relay.meter.usage.prompt_tokens, relay.meter.usage.output_tokens) == transcript.usage
    assert json.loads(writer.feed(got) + writer.feed(relay.meter.done) + writer.end()) == transcript.events


@given(damaged(GEMINI_OWN))
@settings(deadline=None, max_examples=400)
def test_nothing_goes_free(events: list[bytes]) -> None:
    """Damaged in any way, all bytes pass, nothing is raised, and what a reader finds is charged."""
    relay, got = relayed(events, meter())
    assert got + relay.meter.done == b"".join(events)
    assert max(0, relay.delivered()) >= words_of_parts(events), b"".join(events).decode()


@given(damaged(GEMINI_OWN), st.integers(1, 6))
@settings(deadline=None, max_examples=400)
def test_no_limit_is_passed(events: list[bytes], room: int) -> None:
    """However a stream is damaged, it ends before the event that would go beyond the limit, and ends well."""
    relay, got = relayed(events, meter(), room)
    assert b"".join(events).startswith(got)
    assert words_of_parts(re.findall(rb".+\n\n", got)) <= room
    assert relay.delivered() <= room
    if relay.at_limit:
        assert isinstance(relay.meter, GeminiMeter)
        # To the client it may have ended before.
        assert (b"MAX_TOKENS" in ending(relay.meter, 1, Usage(9, room))) is (0 not in relay.meter.finished)


@given(damaged(GEMINI_OWN), st.lists(st.integers(1, 80), max_size=30))
@settings(deadline=None, max_examples=200)
def test_cuts_do_not_matter(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, a damaged stream costs the same."""
    (relay, got), (other, other_got) = relayed(events, meter()), relayed(pieces_of(events, sizes), meter())
    assert got + relay.meter.done == other_got + other.meter.done
    assert relay.delivered() == other.delivered()
    assert relay.meter.usage == other.meter.usage
