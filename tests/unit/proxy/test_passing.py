"""What may pass with the framing that it came in, and for how long."""

from __future__ import annotations

from math import inf

import pytest

from sentinel.endpoints.chat import CHAT
from sentinel.proxy.chunk import MOST_BYTES
from sentinel.proxy.passing import Passing
from sentinel.proxy.redaction import Redactor
from tests.support.damage import chunk_of

KEY = "sk-0123456789abcdefghijklmnopqrstuvwxyz"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'


class Stream:
    """Has been asked `looks` times for more, and lets so many bytes pass each time."""

    def __init__(self, most_bytes: int = MOST_BYTES, ends: float = inf) -> None:
        self.meter = CHAT.meter(CHAT.read(b'{"model":"gpt-4o","messages":[],"stream":true}'), Redactor(KEY))
        self.passing = Passing(self._look_ahead, self.meter)
        self.most_bytes, self.ends = most_bytes, ends
        self.looks = 0
        self.got: list[bytes] = []

    def _look_ahead(self) -> None:
        self.looks += 1
        self.passing.go_on(self.most_bytes, self.ends, self.got.append)


@pytest.mark.parametrize("size", [2, 9, 15, 16, 17, 255, 256, 257, 4095, MOST_BYTES - 7])
def test_one_whole_chunk(size: int) -> None:
    """It is written as it came, and read later."""
    stream = Stream()
    chunk = chunk_of(b"x" * (size - 2) + b"\n\n")
    assert stream.passing.take(chunk) is (len(chunk) <= MOST_BYTES)
    assert stream.got == ([chunk] if len(chunk) <= MOST_BYTES else [])
    assert stream.meter.waiting_bytes == (size if stream.got else 0)
    assert stream.passing.moved is bool(stream.got)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(chunk_of(EVENT)[:-2], id="no line end"),
        pytest.param(chunk_of(EVENT)[:-1], id="half a line end"),
        pytest.param(chunk_of(EVENT)[:-3] + b"\n\n\r\n", id="too long"),
        pytest.param(chunk_of(EVENT)[:-6] + b"\n\n\r\n", id="too short"),
        pytest.param(chunk_of(EVENT) * 2, id="two chunks"),
        pytest.param(b"0\r\n\r\n", id="the last chunk"),
        pytest.param(b"-1\r\n\n\n\r\n", id="a sign"),
        pytest.param(b"A\r\n" + b"x" * 8 + b"\n\n\r\n", id="capitals"),
        pytest.param(b"05\r\nhel\n\n\r\n", id="zeros before"),
        pytest.param(b"5 \r\nhel\n\n\r\n", id="blanks behind"),
        pytest.param(b"5;a=b\r\nhel\n\n\r\n", id="an extension"),
        pytest.param(b"1_0\r\n" + b"x" * 14 + b"\n\n\r\n", id="as Python spells numbers"),
        pytest.param(chunk_of(b"x" * MOST_BYTES + b"\n\n"), id="much"),
        pytest.param(b"5\nhel\n\n\r\n", id="a line feed alone"),
        pytest.param(chunk_of(EVENT[:-1]), id="no end of an event"),
        pytest.param(chunk_of(b"data: [DONE]\n\n"), id="the end of the stream"),
        pytest.param(chunk_of(EVENT[:-3] + b',"usage":{"prompt_tokens":1}}\n\n'), id="usage"),
        pytest.param(chunk_of(EVENT.replace(b"word", KEY.encode())), id="the provider's key"),
    ],
)
def test_everything_else_is_looked_at(data: bytes) -> None:
    """Nothing of it is written, or noted."""
    stream = Stream()
    assert not stream.passing.take(data)
    assert (stream.got, stream.meter.waiting_bytes, stream.passing.moved) == ([], 0, False)


def test_so_much_and_no_more() -> None:
    """Then it is looked ahead; also after a stop."""
    chunk = chunk_of(EVENT)
    stream = Stream(most_bytes=2 * len(chunk))
    assert [stream.passing.take(chunk) for _ in range(3)] == [True, True, True]
    assert stream.looks == 2
    stream.passing.stop()
    stream.most_bytes = len(chunk) - 1
    assert not stream.passing.take(chunk)
    assert (stream.looks, len(stream.got)) == (3, 3)


def test_nothing_passes_when_the_time_is_over() -> None:
    """A process that was stopped for longer has to ask first."""
    stream = Stream(ends=0.0)
    assert not stream.passing.take(chunk_of(EVENT))
    assert stream.got == []
