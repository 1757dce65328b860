"""The line that a chunk of HTTP begins with."""

from __future__ import annotations

from sentinel.proxy.chunk import SIZE_LINES


def test_each_length_has_the_line_of_its_size() -> None:
    """Or none, where no chunk is so long."""
    for length, line in enumerate(SIZE_LINES):
        chunks = [len(b"%x\r\n" % size) + size + 2 for size in range(1, length + 1)]
        assert (line == b"\n") is (length not in chunks)
        assert line == b"\n" or len(line) + int(line, 16) + 2 == length
