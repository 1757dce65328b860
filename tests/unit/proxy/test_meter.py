"""What a stream has cost is read from a copy of its bytes, wherever they are cut; the bytes do not change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.openai_stream import FORMAT
from sentinel.proxy.meter import MOST_PENDING_BYTES, MOST_READ_BYTES, StreamMeter
from sentinel.proxy.redaction import BLOT, Redactor
from sentinel.proxy.sse import MOST_HELD_BYTES
from sentinel.tokens.bpe import count_for
from sentinel.tokens.usage import NOTHING, Usage

MODEL = "gpt-4o-mini"
DONE = b"data: [DONE]\n\n"
count = count_for(MODEL)


def event(text: str | None = None, **fields: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return b"data: " + json.dumps({"choices": choices, **fields}, ensure_ascii=False).encode() + b"\n\n"


def usage(completion: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": completion, "total_tokens": 9 + completion}


def through(meter: StreamMeter, data: bytes, sizes: list[int]) -> bytes:
    """What the client gets of these bytes, cut into pieces of these sizes; [DONE] at its place."""
    out, start = b"", 0
    for size in [*sizes, len(data)]:
        block = meter.feed(data[start : start + size])
        meter.delivered(block)
        out += block
        start += size
    block = meter.rest()
    meter.delivered(block)
    return out + block + meter.done


texts = st.lists(st.text(min_size=1, max_size=12), max_size=12)
cuts = st.lists(st.integers(1, 50), max_size=40)


@given(texts, cuts, st.booleans(), st.booleans())
def test_bytes_and_numbers_are_the_same_wherever_they_are_cut(
    words: list[str], sizes: list[int], withhold: bool, properly: bool
) -> None:
    """All bytes pass but the usage chunk that only we asked for; texts and usage are read in any case."""
    chunks = b"".join(event(word) for word in words)
    ours = event(usage=usage(77))
    end = DONE if properly else DONE.rstrip()
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=withhold)
    assert through(meter, chunks + ours + end, sizes) == chunks + (b"" if withhold else ours) + end
    assert meter.usage == Usage(9, 77, 86)
    assert meter.count() == count("".join(words))
    assert meter.malformed == 0


@pytest.mark.parametrize("withhold", [True, False])
def test_usage_beside_content_stays(withhold: bool) -> None:
    """A chunk that has text and usage is the client's, whatever it asked for; the last usage counts."""
    chunks = event("one", usage=usage(1)) + event(" two", usage=usage(2))
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=withhold)
    assert through(meter, chunks, []) == chunks
    assert meter.usage == Usage(9, 2, 11)


@pytest.mark.parametrize(
    ("odd", "charged"),
    [
        (b"data: not json\n\n", len("not json")),
        (b"data: \xff\xfe\n\n", 2),
        (b'data: ["text"]\n\n', len('["text"]')),
        (b'data: {"choices":7}\n\n', 0),
        (b": ping\n\n", 0),
        (b"id: 7\r\nretry: 100\r\nevent: x\r\n\r\n", 0),
        (b"no event at all\n\n", len("no event at all")),
        (b'event: x\n{"text":"free"}\n\n', len('{"text":"free"}')),
        (b"error: no text\n\n", 0),
        (b"event: x\ndata: {}\n\n", 0),
        (b"data:\n\n", 0),
    ],
)
def test_odd_events_pass(odd: bytes, charged: int) -> None:
    """What we cannot read is relayed all the same, and stops nothing; it is charged by its bytes, and counted."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    data = event("one") + odd + event(" two")
    assert through(meter, data, []) == data
    assert meter.could_exceed(charged + 1)
    assert meter.count() == 2 + charged
    assert meter.malformed == bool(charged)


KEY = "sk-proj-0123456789abcdefghij"


@given(st.integers(MOST_HELD_BYTES - 100, MOST_HELD_BYTES + 100), st.lists(st.integers(1, 40), max_size=30))
def test_no_key_passes_in_an_event_that_comes_in_pieces(before: int, sizes: list[int]) -> None:
    """Wherever it is cut; and all else of the event passes."""
    large = event("x" * before + KEY + " and " + KEY[:-1] + " " * 2000 + KEY)
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True, redactor=Redactor(KEY))
    data = event("one") + large + event(usage=usage(7)) + event(" two") + DONE
    got = through(meter, data, [MOST_HELD_BYTES + 60, *sizes, 500])
    assert got == data.replace(event(usage=usage(7)), b"").replace(KEY.encode(), BLOT)


@pytest.mark.parametrize("end", [b"\n", b"\n\n", b""])
def test_a_whole_answer_in_pieces_passes_to_its_last_byte(end: bytes) -> None:
    """It has no blank line that ends it."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True, redactor=Redactor(KEY))
    data = json.dumps({"choices": [{"message": {"content": " word" * 60_000 + KEY}}]}).encode() + end
    assert through(meter, data, [200_000, 70_000]) == data.replace(KEY.encode(), BLOT)
    assert meter.count() > 60_000


def test_a_text_that_speaks_of_done_and_usage_is_text() -> None:
    """Only the events themselves count, not what they talk about."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    data = event('[DONE] and "usage": {"prompt_tokens": 5}')
    assert through(meter, data, []) == data
    assert (meter.done, meter.usage) == (b"", NOTHING)


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(0, 400))
def test_a_no_is_never_wrong(words: list[str], room: int) -> None:
    """Where it says that the room cannot be exceeded, it is not."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    for word in words:
        meter.delivered(event(word))
        if not meter.could_exceed(room):
            assert StreamMeter.count(meter) <= room


def test_little_is_kept() -> None:
    """However long a stream is, what waits to be counted stays small."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    for _ in range(2000):
        meter.delivered(event(" word" * 20))
        assert meter.waiting_bytes <= MOST_PENDING_BYTES
    assert meter.count() == 40_000


def test_a_stream_that_breaks_off_inside_of_an_event_in_pieces() -> None:
    """Its beginning has left, so it is ended by a blank line; nothing of it could be read."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    meter.delivered(meter.feed(event("one")))
    begun = b'data: {"choices":[{"delta":{"content":"' + b"x" * (MOST_HELD_BYTES + 100)
    assert begun.startswith(meter.feed(begun))
    assert meter.is_inside
    assert (meter.rest(), meter.broke_off) == (b"\n\n", True)


def test_a_key_is_taken_out_of_whole_events() -> None:
    """Wherever in the event it stands."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True, redactor=Redactor(KEY))
    data = event(f"your key is {KEY}, is it?")
    assert meter.feed(data) == data.replace(KEY.encode(), BLOT)


def test_all_choices_must_have_ended() -> None:
    """Only then nothing but usage can follow."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    ends = [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"} for index in range(2)]
    for index, end in enumerate(ends):
        assert meter.measure(b"data: " + json.dumps({"choices": [end]}).encode() + b"\n\n") == index + 1
        assert [meter.has_finished(count) for count in (1, 2)] == [True, index == 1]


@pytest.mark.parametrize(
    ("data", "is_broken"),
    [
        (b"", True),
        (b": ping\n\n", True),
        (b"event: error\ndata: no json\n\n", True),
        (b'data: {"error":{"message":"no"}}\n\n', True),
        (DONE, False),
        (event("one"), False),
        (event(usage=usage(7)), False),
    ],
)
def test_a_stream_that_told_of_an_error_or_of_nothing_is_broken(data: bytes, is_broken: bool) -> None:
    """An error in whatever form; and it costs nothing."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    through(meter, data, [])
    assert (meter.count() == 0) == (event("one") != data)
    assert meter.is_broken is is_broken


@pytest.mark.parametrize("sizes", [[], [MOST_READ_BYTES + 2 * MOST_HELD_BYTES]])
def test_an_event_that_is_too_long_to_be_read_is_charged_by_its_bytes(sizes: list[int]) -> None:
    """Whether it comes at once or in pieces; and what comes behind it is read again."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    large = event("x" * (MOST_READ_BYTES + 3 * MOST_HELD_BYTES))
    assert through(meter, large + event(" two") + DONE, sizes) == large + event(" two") + DONE
    tokens = meter.count()
    assert tokens == (len(large) + 1 if sizes else count("x" * (MOST_READ_BYTES + 3 * MOST_HELD_BYTES)) + 1)


def test_the_last_event_costs_nothing() -> None:
    """It is no JSON either, and not malformed."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    assert meter.measure(event("one") + DONE) == 1
    assert meter.malformed == 0


def test_a_format_whose_end_repeats_nothing_keeps_nothing() -> None:
    """And nothing may follow its `[DONE]`."""
    meter = StreamMeter(MODEL, FORMAT, withhold_usage=True)
    meter.delivered(meter.feed(event("one") + b"data: [DONE]\n\n"))
    assert (meter.end(), meter.kept_bytes, meter.may_trail, meter.lacks_end()) == (1, 0, False, False)
