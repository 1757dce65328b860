"""Streams of responses, as they are and damaged: relayed unchanged, and never charged less than they hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.responses_stream import ResponsesMeter, ending
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.usage import Usage
from tests.support.damage import damaged, pieces_of, relayed
from tests.support.transcripts import RESPONSES, Transcript


def meter() -> ResponsesMeter:
    return ResponsesMeter("gpt-4o-mini", NO_SECRET)


def words(value: Any) -> int:
    """How many words all strings in a value have."""
    if isinstance(value, str):
        return len(re.findall(r"[a-z]+", value))
    if isinstance(value, dict):
        return sum(words(inner) for key, inner in value.items() if key not in ("data", "url"))
    return sum(map(words, value)) if isinstance(value, list) else 0


def read(events: list[bytes]) -> list[dict[str, Any]]:
    found = [json.loads(event.removeprefix(b"data: ")) for event in events]
    return [event for event in found if not event.get("error")]


def words_of_deltas(events: list[bytes]) -> int:
    """How many words the pieces of a stream have, whatever repeats them."""
    kinds = [(event.get("type"), event.get("delta")) for event in read(events)]
    return sum(words(delta) for kind, delta in kinds if isinstance(kind, str) and kind.endswith(".delta"))


@pytest.mark.parametrize("transcript", RESPONSES)
def test_what_it_costs(transcript: Transcript) -> None:
    """Each is counted exactly, though it says everything up to four times; its usage comes last."""
    relay, got = relayed(transcript.data(), meter())
    assert got + relay.meter.done == b"".join(transcript.data())
    assert relay.delivered() == transcript.output_tokens
    assert (relay.meter.usage.prompt_tokens, relay.meter.usage.output_tokens) == transcript.usage
    assert relay.meter.usage_is_final == (transcript.usage != (0, 0))
    assert (relay.meter.malformed, relay.meter.is_broken) == (0, False)


@given(damaged(RESPONSES))
@settings(deadline=None, max_examples=400)
def test_nothing_goes_free(events: list[bytes]) -> None:
    """Damaged in any way, all bytes pass, nothing is raised, and what a reader finds is charged."""
    relay, got = relayed(events, meter())
    assert got + relay.meter.done == b"".join(events)
    assert max(0, relay.delivered()) >= words_of_deltas(events), b"".join(events).decode()


@given(damaged(RESPONSES), st.integers(1, 6))
@settings(deadline=None, max_examples=400)
def test_no_limit_is_passed(events: list[bytes], room: int) -> None:
    """However a stream is damaged, it ends before the event that would go beyond the limit, and ends well."""
    relay, got = relayed(events, meter(), room)
    assert b"".join(events).startswith(got)
    assert words_of_deltas(re.findall(rb".+\n\n", got)) <= room
    assert relay.delivered() <= room
    if relay.at_limit:
        assert isinstance(relay.meter, ResponsesMeter)
        assert b"response.incomplete" in ending(relay.meter, Usage(9, room))


@given(damaged(RESPONSES), st.lists(st.integers(1, 80), max_size=30))
@settings(deadline=None, max_examples=200)
def test_cuts_do_not_matter(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, a damaged stream costs the same."""
    (relay, got), (other, other_got) = relayed(events, meter()), relayed(pieces_of(events, sizes), meter())
    assert got + relay.meter.done == other_got + other.meter.done
    assert relay.delivered() == other.delivered()
    assert relay.meter.usage == other.meter.usage
