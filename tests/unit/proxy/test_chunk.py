"""What may be passed on with the framing that it came in."""

from __future__ import annotations

import pytest

from sentinel.proxy.chunk import inside_of


@pytest.mark.parametrize("size", [1, 9, 15, 16, 255, 256, 4089])
def test_one_whole_chunk(size: int) -> None:
    body = b"x" * size
    assert inside_of(b"%x\r\n%b\r\n" % (size, body)) == body


@pytest.mark.parametrize("body", [b"\r\n", b"5\r\nhello\r\n", b"0\r\n"])
def test_what_is_inside_may_look_like_framing(body: bytes) -> None:
    assert inside_of(b"%x\r\n%b\r\n" % (len(body), body)) == body


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"5\r\nhello", id="no line end"),
        pytest.param(b"5\r\nhello\r", id="half a line end"),
        pytest.param(b"5\r\nhell\r\n", id="too short"),
        pytest.param(b"5\r\nhello!\r\n", id="too long"),
        pytest.param(b"5\r\nhello\r\n5\r\nhello\r\n", id="two chunks"),
        pytest.param(b"0\r\n\r\n", id="the last chunk"),
        pytest.param(b"-1\r\n\r\n", id="a sign"),
        pytest.param(b"A\r\nhellohello\r\n", id="capitals"),
        pytest.param(b"05\r\nhello\r\n", id="zeros before"),
        pytest.param(b"5 \r\nhello\r\n", id="blanks behind"),
        pytest.param(b"5;a=b\r\nhello\r\n", id="an extension"),
        pytest.param(b"1_0\r\n" + b"x" * 16 + b"\r\n", id="as Python spells numbers"),
        pytest.param(b"ffa\r\n" + b"x" * 4090 + b"\r\n", id="much"),
        pytest.param(b"hello\r\n", id="no size"),
        pytest.param(b"5\nhello\r\n", id="a line feed alone"),
    ],
)
def test_everything_else(data: bytes) -> None:
    assert inside_of(data) is None
