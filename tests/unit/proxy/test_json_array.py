"""Arrays as events, and events as arrays: whatever the cuts, the items are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.json_array import ArrayReader, ArrayWriter
from sentinel.proxy.sse import data_of, split_events

ITEMS: list[Any] = [
    {"text": 'a "quoted" ] } { [ \\ word', "more": [{"deep": [1, [2], {}]}]},
    {"text": "line\nend and \u2028 é", "empty": ""},
    {"text": "\\", "b": "\\\\"},
    7,
    "a, b",
    None,
]
FORMS = [
    json.dumps(ITEMS).encode(),
    json.dumps(ITEMS, indent=2).encode(),
    json.dumps(ITEMS, indent=2, ensure_ascii=False).encode().replace(b"\n", b"\r\n"),
    b" \r\n" + json.dumps(ITEMS, separators=(",", ":")).encode() + b"\n",
]

cuts = st.lists(st.integers(1, 40), max_size=40)


def cut(whole: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(whole[start : start + size])
        start += size
    return [*pieces, whole[start:]]


def read(pieces: list[bytes]) -> bytes:
    reader = ArrayReader()
    return b"".join(reader.feed(piece) for piece in pieces)


def written(pieces: list[bytes]) -> bytes:
    writer = ArrayWriter()
    return b"".join([*(writer.feed(piece) for piece in pieces), writer.end()])


def items_of(events: bytes) -> list[Any]:
    return [json.loads(data_of(event) or b"") for event in split_events(events)]


@pytest.mark.parametrize("form", FORMS)
@given(sizes=cuts)
def test_an_array_is_read_as_events(form: bytes, sizes: list[int]) -> None:
    """Each item is the data of one, whatever it holds and wherever its bytes are cut."""
    assert items_of(read(cut(form, sizes))) == ITEMS


@pytest.mark.parametrize("form", FORMS)
@given(sizes=cuts)
def test_there_and_back(form: bytes, sizes: list[int]) -> None:
    """The array that a client gets has the same items."""
    assert json.loads(written(cut(read([form]), sizes))) == ITEMS


def test_what_stands_between_items_is_written_anew() -> None:
    """As Google does; inside of them everything stays."""
    array = b'[{\n  "a": 1.0\n}\n,\r\n{\n  "a": 1e3\n}\n]\n'
    assert written([read([array])]) == b'[{\n  "a": 1.0\n}\n,\n{\n  "a": 1e3\n}\n]'


@pytest.mark.parametrize(
    ("array", "events"),
    [
        (b"", b""),
        (b"[", b""),
        (b"[]", b""),
        (b"[ ]{}", b""),
        (b'[{"a":1}]{"b":2}', b'data: {"a":1}\n\n'),
        (b'[{"a":1},{"b"', b'data: {"a":1}\n\ndata: {"b"'),
        (b'[{"a":"x', b'data: {"a":"x'),
        (b'[{"a":"x\\', b'data: {"a":"x'),
        (b'[{"a":1},', b'data: {"a":1}\n\n'),
        (b'{"a":1}', b'data: "a":1\n\n'),
        (b"[1 ,2]", b"data: 1 \n\ndata: 2\n\n"),
    ],
)
def test_arrays_that_break_off(array: bytes, events: bytes) -> None:
    """What came is given out, and an item that has not ended is no whole event. What follows an array is nothing."""
    assert read([array]) == events


def test_an_item_comes_out_as_it_comes_in() -> None:
    """However long it is, nothing is kept of it."""
    reader = ArrayReader()
    assert reader.feed(b'[{"a":"' + b"x" * 9) == b'data: {"a":"' + b"x" * 9
    assert reader.feed(b"y" * 9) == b"y" * 9
    assert reader.feed(b'z"}') == b'z"}\n\n'


@pytest.mark.parametrize(
    ("events", "array"),
    [
        (b"", b"[]"),
        (b": keep-alive\n\n", b"[]"),
        (b"\n\n\n", b"[]"),
        (b'event: x\nid: 1\ndata: {"a":1}\n\n', b'[{"a":1}\n]'),
        (b'data:{"a":1}\r\n\r\ndata:  {}\r\r', b'[{"a":1}\n,\n {}\n]'),
        (b'data: {\ndata: "a":1}\n\ndata: {}\n\n', b'[{\n"a":1}\n,\n{}\n]'),
        (b"data: 1", b"[1\n]"),
        (b"data", b"[]"),
        (b"data:", b"[\n]"),
    ],
)
def test_events_as_an_array(events: bytes, array: bytes) -> None:
    """Whole, and byte by byte: what is no data is left out."""
    assert written([events]) == array
    assert written([events[at : at + 1] for at in range(len(events))]) == array
