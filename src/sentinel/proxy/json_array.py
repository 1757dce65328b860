"""A stream as one JSON array, and the same as events: each item is the data of one event.

Inside of Sentinel a stream is events, whatever it is on the wire. So an array of a provider is read as events
(`ArrayReader`), and events are written to a client as an array (`ArrayWriter`). Items keep their bytes, but for the
form of their line ends; what stands between them is written anew. Bytes may be cut anywhere.
"""

from __future__ import annotations

import re
from typing import Final

_STEP: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
"""A whole string, the beginning of one, or what opens, closes and parts values."""
_STRING_END: Final = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
_DATA: Final = b"data: "
_BETWEEN: Final = b"\n,\n"


class ArrayReader:
    """The bytes of an array in, events out. An item comes out as it comes in, whole or not."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._in_item = self._has_ended = False
        # The end of what came: half of an escape.
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The next bytes; returns what they are as events."""
        data, self._rest = self._rest + data, b""
        if (len(data) - len(data.rstrip(b"\\"))) % 2:
            data, self._rest = data[:-1], b"\\"
        out: list[bytes] = []
        start = position = 0
        while position < len(data) and not self._has_ended:
            found = _STRING_END.match(data, position) if self._in_string else _STEP.search(data, position)
            if found is None:
                break
            position = found.end()
            if self._in_string:
                self._in_string = False
                continue
            token = found[0]
            if token == b'"':
                self._in_string = True
                break
            start = self._step(token, data, start, found, out)
        if self._depth and not self._has_ended:
            self._give(data[start:], out)
        return b"".join(out)

    def _step(self, token: bytes, data: bytes, start: int, found: re.Match[bytes], out: list[bytes]) -> int:
        """What a token changes; returns where that begins which has not been given out."""
        if token in b"[{":
            self._depth += 1
            return found.end() if self._depth == 1 else start
        if token == b"," and self._depth == 1:
            self._give(data[start : found.start()], out)
            self._end_item(out)
            return found.end()
        if token in b"]}":
            self._depth -= 1
            if not self._depth:
                self._give(data[start : found.start()], out)
                self._end_item(out)
                self._has_ended = True
            elif self._depth == 1:
                self._give(data[start : found.end()], out)
                self._end_item(out)
                return found.end()
        return start

    def _give(self, piece: bytes, out: list[bytes]) -> None:
        """A piece of an item, or what stands before it."""
        if not self._in_item:
            piece = piece.lstrip(_BLANK)
            if not piece:
                return
            out.append(_DATA)
            self._in_item = True
        out.append(_LINE_END.sub(b"\n" + _DATA, piece))

    def _end_item(self, out: list[bytes]) -> None:
        if self._in_item:
            out.append(b"\n\n")
        self._in_item = False


class ArrayWriter:
    """Events in, the bytes of an array out. Lines that are no data are left out."""

    def __init__(self) -> None:
        self._has_items = self._in_item = self._ends_with_cr = False
        # The beginning of a line that is too short to tell what it is; whether the rest of a line is data.
        self._line = b""
        self._rest_is_data: bool | None = None

    def feed(self, events: bytes) -> bytes:
        """The next bytes of events; returns what they are of an array."""
        if self._ends_with_cr and events:
            events = events.removeprefix(b"\n")
            self._ends_with_cr = False
        out: list[bytes] = []
        for line in events.splitlines(keepends=True):
            self._take(line, out)
        self._ends_with_cr = self._ends_with_cr or events.endswith(b"\r")
        return b"".join(out)

    def end(self) -> bytes:
        """The end of the array."""
        out: list[bytes] = []
        if self._line:
            self._begin(self._line, out)
        return b"".join([*out, b"\n]" if self._has_items else b"[]"])

    def _take(self, line: bytes, out: list[bytes]) -> None:
        is_whole = line.endswith((b"\n", b"\r"))
        if self._rest_is_data is None:
            line, self._line = self._line + line, b""
            if not is_whole and len(line) < len(_DATA):
                self._line = line
                return
            is_data = self._begin(line, out)
        else:
            is_data = self._rest_is_data
            if is_data:
                out.append(line.rstrip(b"\r\n"))
        self._rest_is_data = None if is_whole else is_data

    def _begin(self, line: bytes, out: list[bytes]) -> bool:
        """A line, or its beginning; whether it is data."""
        if line.startswith(_DATA[:-1]):
            if self._in_item:
                out.append(b"\n")
            else:
                out.append(_BETWEEN if self._has_items else b"[")
            self._in_item = self._has_items = True
            out.append(line.removeprefix(_DATA[:-1]).removeprefix(b" ").rstrip(b"\r\n"))
            return True
        if not line.strip(b"\r\n"):
            self._in_item = False
        return False
