"""Streams of real providers, as they are and damaged: relayed unchanged, and never charged less than they hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.openai_stream import FORMAT
from sentinel.proxy.meter import StreamMeter
from sentinel.tokens.usage import read_usage
from tests.support.damage import damaged, pieces_of, relayed
from tests.support.transcripts import ALL, DONE

MODEL = "gpt-4o-mini"
# ------------------------------------------------------------------------------------------------ an independent reader

NOT_TEXT = re.compile(
    "role|id|type|index|object|status|model|.*finish_reason|stop_reason|logprobs|.*token_ids|usage|content_filter_.*|"
    "format|channel|thought_signature|signature|error|annotations|citations|images|url|data|detail|created|provider|"
    "seed|service_tier|obfuscation|encrypted.*|matched_stop|image_url|b64_json|file_data|mime_type|prompt_logprobs"
)


def words(value: Any) -> tuple[str, ...]:
    """The words of all strings in a value, leaving out what is named like something else than text."""
    if isinstance(value, str):
        return tuple(re.findall(r"[a-z]+", value))
    if isinstance(value, dict):
        return tuple(w for key, inner in value.items() if not NOT_TEXT.fullmatch(key) for w in words(inner))
    return tuple(w for inner in value for w in words(inner)) if isinstance(value, list) else ()


def words_of_choice(choice: Any) -> int:
    """How many words a choice says; what two of its fields say alike is said once."""
    if not isinstance(choice, dict):
        return len(words(choice))
    fields: list[tuple[str, Any]] = []
    for key, value in choice.items():
        if key == "message" and isinstance(choice.get("delta"), dict):
            continue
        if key in ("delta", "message") and isinstance(value, dict):
            fields += value.items()
        else:
            fields.append((key, value))
    said = {words(value) for key, value in fields if not NOT_TEXT.fullmatch(key)}
    return sum(map(len, said))


def words_of_event(event: bytes) -> int:
    (line,) = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    try:
        chunk = json.loads(line[5:])
    except ValueError:
        return 0
    if not isinstance(chunk, dict) or chunk.get("error"):
        return 0
    choices = chunk.get("choices")
    return sum(map(words_of_choice, choices if isinstance(choices, list) else [choices]))


# ---------------------------------------------------------------------------------------------------------------- tests


def meter(*, withhold: bool = False) -> StreamMeter:
    return StreamMeter(MODEL, FORMAT, withhold_usage=withhold)


@pytest.mark.parametrize("name", ALL)
def test_what_it_costs(name: str) -> None:
    """Each is counted exactly, and its usage is found wherever it is."""
    transcript = ALL[name]
    relay, _ = relayed(transcript.data(), meter())
    assert relay.delivered() == transcript.output_tokens
    usage = relay.meter.usage
    assert (usage.prompt_tokens, usage.output_tokens) == transcript.usage
    assert relay.meter.usage_is_final == (transcript.usage != (0, 0))
    assert relay.meter.malformed == 0
    assert relay.meter.finish_reason in ("stop", "tool_calls", None)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("withhold", [True, False])
def test_what_passes(name: str, withhold: bool) -> None:
    """Everything, less an event that is nothing but the usage that only we asked for."""
    transcript = ALL[name]
    _, got = relayed(transcript.data(), meter(withhold=withhold))
    own = [
        event
        for event in transcript.events
        if not (withhold and isinstance(event, dict) and event["choices"] == [] and event.get("usage"))
    ]
    expected = b"".join(transcript.data(own)).replace(
        transcript.data([DONE])[0].removeprefix(transcript.prefix.encode()), b""
    )
    assert got.replace(transcript.prefix.encode() or b"\0", b"") == expected.replace(
        transcript.prefix.encode() or b"\0", b""
    )


@given(damaged(list(ALL.values())))
@settings(max_examples=400)
def test_nothing_goes_free(events: list[bytes]) -> None:
    """Damaged in any way, all bytes pass, nothing is raised, and what a reader finds is charged."""
    relay, got = relayed(events, meter())
    assert got + relay.meter.done == b"".join(events)
    found = sum(words_of_event(event) for event in events)
    assert max(0, relay.delivered()) >= found, b"".join(events).decode()


@given(damaged(list(ALL.values())), st.integers(1, 6))
@settings(max_examples=400)
def test_no_limit_is_passed(events: list[bytes], room: int) -> None:
    """However a stream is damaged, it ends before the event that would go beyond the limit."""
    relay, got = relayed(events, meter(), room)
    assert b"".join(events).startswith(got)
    delivered = [event for event in re.split(rb"(?<=\n\n)", got) if b"data:" in event]
    assert sum(map(words_of_event, delivered)) <= room
    assert relay.delivered() <= room


@given(damaged(list(ALL.values())), st.lists(st.integers(1, 80), max_size=30))
@settings(max_examples=200)
def test_cuts_do_not_matter(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, a damaged stream costs the same."""
    (relay, got), (other, other_got) = relayed(events, meter()), relayed(pieces_of(events, sizes), meter())
    assert got == other_got
    assert relay.delivered() == other.delivered()
    assert relay.meter.usage == other.meter.usage


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_no_usage_raises(value: Any) -> None:
    """Whatever stands where usage should."""
    read_usage(value)
    read_usage({"prompt_tokens": value, "completion_tokens": 17, "prompt_tokens_details": value})
