"""Chunks of a stream that pass from the provider's connection to the client's as they came, framing and all.

That is nearly all of a stream. Where thousands of streams are open, all that belongs to one is out of the processor's
cache by the time its next chunk comes, and each object that has to be looked at costs as much as ten steps of Python.
So what a chunk needs is in one small object, and whoever knows that something has changed says so (`stop`), instead of
being asked for each chunk.
"""

from __future__ import annotations

from collections.abc import Callable

from sentinel.clock import monotonic
from sentinel.proxy.chunk import MOST_BYTES, SIZE_LINES
from sentinel.proxy.meter import DONE, StreamMeter
from sentinel.proxy.sse import END_OF_EVENT

_END = END_OF_EVENT + b"\r\n"


def _do_nothing() -> None:
    """At the end there is nothing to look at."""


def _no_write(_: bytes) -> None:
    raise AssertionError("nothing may pass")


class Passing:
    """What may pass of one stream.

    look_ahead: called where nothing more may pass; calls `go_on` if something may. meter: reads later what has passed.
    moved: whether anything has since this was last set to False.
    """

    __slots__ = ("_bytes_left", "_ends", "_look_ahead", "_mark", "_notable", "_passed", "_write", "moved")

    def __init__(self, look_ahead: Callable[[], None], meter: StreamMeter) -> None:
        self._bytes_left = 0
        self._ends = 0.0
        self._look_ahead = look_ahead
        self._notable, self._mark, self._passed = meter.notable, meter.mark, meter.passed
        self._write: Callable[[bytes], None] = _no_write
        self.moved = False

    def take(self, chunk: bytes) -> bool:
        """Pass a read on, if it is one whole chunk, spelled as we would spell it, of whole events that need no look.

        That is what nearly every read of a stream is. A size in another spelling (capitals, zeros before it, blanks
        behind it, an extension) is no client's to read.
        """
        size = len(chunk)
        if size > self._bytes_left:
            self._look_ahead()
            if size > self._bytes_left:
                return False
        line, mark = SIZE_LINES[size], self._mark
        if not (
            chunk.startswith(line)
            and chunk.endswith(_END)
            and chunk.find(DONE) < 0
            and (mark is None or chunk.find(mark) < 0)
            and self._notable(chunk) is None
            and monotonic() <= self._ends
        ):
            return False
        self._write(chunk)
        self._bytes_left -= size
        self._passed += chunk[len(line) : -2]
        self.moved = True
        return True

    def go_on(self, most_bytes: int, ends: float, write: Callable[[bytes], None]) -> None:
        """So much may pass until this moment (monotonic seconds), and is written so."""
        self._bytes_left, self._ends, self._write = min(most_bytes, MOST_BYTES), ends, write

    def stop(self) -> None:
        """Nothing may pass before somebody has looked."""
        self._bytes_left = 0

    def close(self) -> None:
        """Nothing passes any more. It knows the relay, which knows it: both go at once so."""
        self._bytes_left, self._look_ahead, self._write = 0, _do_nothing, _no_write
