"""Events out of bytes that were cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.sse import MOST_HELD_BYTES, EventBuffer, data_of, split_events

lines = st.sampled_from(
    [b"data: {}", b'data: {"a":"\xc3\xa9"}', b"data:x", b": ping", b"event: e", b"id: 1", b"data: [DONE]", b"rubbish"]
)
ends = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def transcripts(draw: st.DrawFn) -> list[bytes]:
    """Whole events, each in one style of line ends."""
    events = []
    for _ in range(draw(st.integers(0, 5))):
        end = draw(ends)
        body = end.join(draw(st.lists(lines, min_size=1, max_size=3)))
        events.append(body + end + end)
    return events


@given(transcripts(), st.lists(st.integers(1, 40), max_size=30), st.sampled_from([b"", b"data: unfin", b"\xf0\x9f"]))
def test_events_are_the_same_wherever_they_are_cut(events: list[bytes], sizes: list[int], rest: bytes) -> None:
    """Every cut gives the same events, byte for byte, and what is unfinished stays behind."""
    whole = b"".join(events) + rest
    buffer, out, start = EventBuffer(), b"", 0
    for size in [*sizes, len(whole)]:
        out += buffer.feed(whole[start : start + size])
        assert out == b"" or out.endswith((b"\n\n", b"\r\n\r\n"))
        start += size
    assert out == b"".join(events)
    assert buffer.rest() == rest
    assert split_events(out) == events


def test_every_byte_may_be_a_cut() -> None:
    """A stream fed byte by byte gives each event with its last byte."""
    events = [b'data: {"a":"\xf0\x9f\x99\x82"}\n\n', b"data: b\r\n\r\n", b"data: [DONE]\n\n"]
    buffer = EventBuffer()
    blocks = [buffer.feed(bytes([byte])) for byte in b"".join(events)]
    assert [block for block in blocks if block] == events


def test_a_huge_event_is_not_held() -> None:
    """Beyond a bound an event is given out in pieces, unchanged."""
    event = b"data: " + b"x" * (3 * MOST_HELD_BYTES) + b"\n\n"
    buffer, out = EventBuffer(), b""
    for start in range(0, len(event), 10_000):
        out += buffer.feed(event[start : start + 10_000])
        assert len(buffer.rest()) <= MOST_HELD_BYTES
    assert out + buffer.rest() == event


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"event: x\ndata: a\nid: 1\n\n", b"a"),
        (b"data: a", b"a"),
        (b"data:  a\n\n", b"a"),
        (b"data:  a\r\n\r\n", b"a"),
        (b"event: x\ndata:\ta \n\n", b"a"),
        (b"data:\n\n", b""),
        (b": comment\n\n", None),
        (b"\n\n", None),
        (b"database: a\n\n", None),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes | None) -> None:
    """As WHATWG HTML reads it, less the blanks around it: they say nothing in JSON, nor beside `[DONE]`."""
    assert data_of(event) == data
