"""Streams of messages, as they are and damaged: relayed unchanged, and never charged less than they hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.message_stream import MessagesMeter, ending
from sentinel.tokens.usage import Usage
from tests.support.damage import damaged, pieces_of, relayed
from tests.support.transcripts import MESSAGES, Transcript


def meter() -> MessagesMeter:
    return MessagesMeter("claude-haiku-5-5")


def words(value: Any) -> int:
    """How many words all texts in a value have."""
    if isinstance(value, str):
        return len(re.findall(r"[a-z]+", value))
    if isinstance(value, dict):
        named = ("type", "data", "url", "signature")
        return sum(words(inner) for key, inner in value.items() if key not in named)
    return sum(map(words, value)) if isinstance(value, list) else 0


def words_of_deltas(events: list[bytes]) -> int:
    """How many words the pieces of a stream have."""
    read = [json.loads(event.removeprefix(b"data: ")) for event in events]
    pieces = [each.get("delta") for each in read if each.get("type") == "content_block_delta" and not each.get("error")]
    # What two fields of a piece say alike is said once.
    said = [[words({key: text}) for key, text in piece.items()] for piece in pieces if isinstance(piece, dict)]
    return sum(max(each, default=0) for each in said)


@pytest.mark.parametrize("transcript", MESSAGES)
def test_what_it_costs(transcript: Transcript) -> None:
    """Each is counted, and its usage is found in the two events that have it."""
    relay, got = relayed(transcript.data(), meter())
    assert got + relay.meter.done == b"".join(transcript.data())
    assert relay.delivered() == transcript.output_tokens
    assert (relay.meter.usage.prompt_tokens, relay.meter.usage.output_tokens) == transcript.usage
    assert relay.meter.usage_is_final
    assert (relay.meter.malformed, relay.meter.is_broken) == (0, False)


@given(damaged(MESSAGES))
@settings(deadline=None, max_examples=400)
def test_nothing_goes_free(events: list[bytes]) -> None:
    """Damaged in any way, all bytes pass, nothing is raised, and what a reader finds is charged."""
    relay, got = relayed(events, meter())
    assert b"".join(events).startswith(got + relay.meter.done)
    assert max(0, relay.delivered()) >= words_of_deltas(events), b"".join(events).decode()


@given(damaged(MESSAGES), st.integers(1, 6))
@settings(deadline=None, max_examples=400)
def test_no_limit_is_passed(events: list[bytes], room: int) -> None:
    """However a stream is damaged, it ends before the event that would go beyond the limit, and ends well."""
    relay, got = relayed(events, meter(), room)
    assert b"".join(events).startswith(got)
    assert words_of_deltas(re.findall(rb".+\n\n", got)) <= room
    assert relay.delivered() <= room
    if relay.at_limit:
        assert isinstance(relay.meter, MessagesMeter)
        assert ending(relay.meter, Usage(9, room)).endswith(b'data: {"type":"message_stop"}\n\n')


@given(damaged(MESSAGES), st.lists(st.integers(1, 80), max_size=30))
@settings(deadline=None, max_examples=200)
def test_cuts_do_not_matter(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, a damaged stream costs the same."""
    (relay, got), (other, other_got) = relayed(events, meter()), relayed(pieces_of(events, sizes), meter())
    assert got + relay.meter.done == other_got + other.meter.done
    assert relay.delivered() == other.delivered()
    assert relay.meter.usage == other.meter.usage
