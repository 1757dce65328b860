"""Streams of real providers, as they are and damaged: relayed unchanged, and never charged less than they hold."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.openai_stream import FORMAT
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.relay import Relay
from sentinel.tokens.usage import read_usage
from tests.support.transcripts import ALL, DONE, Transcript

MODEL = "gpt-4o-mini"
ODD = [None, True, False, 7, -1, 1.5, "", " odd", "17", [], {}, [" odd"], {"text": " odd"}, {"a": {"b": [" odd"]}}]
TEXT_FIELDS = ["content", "refusal", "reasoning", "reasoning_content", "text", "thinking", "transcript", "a_new_field"]
COUNTING = ThreadPoolExecutor(1)


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


# ------------------------------------------------------------------------------------------------------------ mutations


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def drop(container: Any, key: Any, _: Any) -> None:
    del container[key]


def retype(container: Any, key: Any, odd: Any) -> None:
    container[key] = copy.deepcopy(odd)


def nest(container: Any, key: Any, odd: Any) -> None:
    container[key] = [container[key]] if odd else {"inner": container[key]}


def double(container: Any, key: Any, odd: Any) -> None:
    if isinstance(container, dict):
        container[TEXT_FIELDS[len(str(odd)) % len(TEXT_FIELDS)]] = copy.deepcopy(container[key])
    else:
        container.insert(key, copy.deepcopy(container[key]))


MUTATIONS: list[Callable[[Any, Any, Any], None]] = [drop, retype, nest, double]


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    """The events of a provider's stream, some of them damaged."""
    transcript: Transcript = draw(st.sampled_from(list(ALL.values())))
    events = copy.deepcopy(transcript.events)
    for _ in range(draw(st.integers(1, 4))):
        event = draw(st.sampled_from(events))
        if isinstance(event, dict) and (there := list(places(event))):
            container, key = there[draw(st.integers(0, len(there) - 1))]
            draw(st.sampled_from(MUTATIONS))(container, key, draw(st.sampled_from(ODD)))
    return transcript.data(events)


# ---------------------------------------------------------------------------------------------------------------- tests


class Client:
    """Takes everything at once."""

    is_full = gone = False

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def pass_on(self, piece: bytes) -> None:
        self.got.append(piece)

    async def write(self, piece: bytes) -> None:
        self.got.append(piece)


class Upstream:
    """Sends these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def flow(self, take: Callable[[bytes], bytes | None]) -> bytes | None:
        for piece in self._pieces:
            if (rest := take(piece)) is not None:
                return rest
        return None


@dataclass
class Lease:
    """One that does not end."""

    output: int
    ends: float = math.inf
    noted: int = 0


class Leases:
    """Nothing is left."""

    async def extend(self, held: Lease, more: int, delivered: int) -> int:
        return 0


def relayed(pieces: list[bytes], room: int | None = None, *, withhold: bool = False) -> tuple[Relay, bytes]:
    client, meter = Client(), StreamMeter(MODEL, FORMAT, withhold_usage=withhold)
    lease = Lease(room or 0)
    relay = Relay(client, meter, Leases(), lease, COUNTING, is_limited=room is not None)  # type: ignore[arg-type]
    asyncio.run(relay.run(Upstream(pieces)))  # type: ignore[arg-type]
    return relay, b"".join(client.got)


@pytest.mark.parametrize("name", ALL)
def test_what_it_costs(name: str) -> None:
    """Each is counted exactly, and its usage is found wherever it is."""
    transcript = ALL[name]
    relay, _ = relayed(transcript.data())
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
    _, got = relayed(transcript.data(), withhold=withhold)
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


@given(damaged())
@settings(max_examples=400)
def test_nothing_goes_free(events: list[bytes]) -> None:
    """Damaged in any way, all bytes pass, nothing is raised, and what a reader finds is charged."""
    relay, got = relayed(events)
    assert got + relay.meter.done == b"".join(events)
    found = sum(words_of_event(event) for event in events)
    assert max(0, relay.delivered()) >= found, b"".join(events).decode()


@given(damaged(), st.integers(1, 6))
@settings(max_examples=400)
def test_no_limit_is_passed(events: list[bytes], room: int) -> None:
    """However a stream is damaged, it ends before the event that would go beyond the limit."""
    relay, got = relayed(events, room)
    assert b"".join(events).startswith(got)
    delivered = [event for event in re.split(rb"(?<=\n\n)", got) if b"data:" in event]
    assert sum(map(words_of_event, delivered)) <= room
    assert relay.delivered() <= room


@given(damaged(), st.lists(st.integers(1, 80), max_size=30))
@settings(max_examples=200)
def test_cuts_do_not_matter(events: list[bytes], sizes: list[int]) -> None:
    """Cut anywhere, a damaged stream costs the same."""
    whole, pieces, start = b"".join(events), [], 0
    for size in sizes:
        pieces.append(whole[start : start + size])
        start += size
    pieces = [piece for piece in (*pieces, whole[start:]) if piece]
    (relay, got), (other, other_got) = relayed(events), relayed(pieces)
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
