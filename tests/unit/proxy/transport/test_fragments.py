"""Long frames cut into fragments: the same messages, however they come. About: `proxy/transport/fragments.py`."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from sentinel.proxy.transport.fragments import LONG_BYTES, Fragmenter

SIZES = (0, 1, 125, 126, 65_535, LONG_BYTES, LONG_BYTES + 1, LONG_BYTES + 7, 3 * LONG_BYTES + 2)


def read(side: Side, data: bytes, cuts: list[int]) -> list[tuple[int, bytes]]:
    """The messages that a reader makes of it: opcode and data, where it comes in these pieces."""
    fragmenter, reader = Fragmenter(), Protocol(side, max_size=None)
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found: list[tuple[int, bytes]] = []
    kind, parts = 0, b""
    for start, end in pairwise(at):
        reader.receive_data(fragmenter.feed(data[start:end]))
        for frame in reader.events_received():
            assert isinstance(frame, Frame)
            assert len(frame.data) <= max(LONG_BYTES, end - start + 4)
            if frame.opcode in (Opcode.PING, Opcode.CLOSE):
                found.append((frame.opcode, bytes(frame.data)))
                continue
            kind = frame.opcode or kind
            parts += frame.data
            if frame.fin:
                found.append((kind, parts))
                parts = b""
    assert reader.parser_exc is None
    return found


@pytest.mark.parametrize("side", list(Side))
@given(
    st.lists(st.tuples(st.sampled_from(SIZES), st.booleans()), max_size=4), st.lists(st.integers(0, 10**6), max_size=9)
)
def test_messages_are_the_same(side: Side, told: list[tuple[int, bool]], cuts: list[int]) -> None:
    """Masked and not, text and binary, with pings between them, wherever they are cut."""
    data, expected = b"", []
    for number, (size, is_text) in enumerate(told):
        payload = (b"%d:" % number + b"abcdefg" * (size // 7 + 1))[:size]
        for opcode, body in ((Opcode.TEXT if is_text else Opcode.BINARY, payload), (Opcode.PING, b"p")):
            data += Frame(opcode, body).serialize(mask=side is Side.SERVER)
            expected.append((opcode, body))
    assert read(side, data, cuts) == expected


def test_fragments_of_the_sender_stay_one_message() -> None:
    """Also where each of them is long."""
    half = b"x" * (LONG_BYTES + 5)
    data = Frame(Opcode.TEXT, half, fin=False).serialize(mask=True) + Frame(Opcode.CONT, half).serialize(mask=True)
    assert read(Side.SERVER, data, list(range(0, len(data), 30_001))) == [(Opcode.TEXT, half + half)]


def test_byte_by_byte() -> None:
    """Heads, too."""
    data = Frame(Opcode.TEXT, b"y" * (LONG_BYTES + 9)).serialize(mask=True)
    data += Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
    cuts = [*range(40), *range(len(data) - 40, len(data))]
    assert read(Side.SERVER, data, cuts) == [(Opcode.TEXT, b"y" * (LONG_BYTES + 9)), (Opcode.CLOSE, b"\x03\xe8")]
