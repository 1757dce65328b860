"""Long frames of a WebSocket, cut into fragments as they come (RFC 6455, 5.4).

The message is the same, and each step is short. The library that reads frames holds one until it is whole, then unmasks
it: for 16 MB the event loop stands still for 80 ms. What is cut here is read as it comes, some 64 KB at a time.
"""

from __future__ import annotations

from typing import Final

LONG_BYTES: Final = 64 * 1024
"""Of a frame's data; what is longer is cut."""
_FIN: Final = 0x80
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_LONGEST_HEAD: Final = 14


class Fragmenter:
    """The frames of one connection, which come cut anywhere."""

    __slots__ = ("_begun", "_end", "_kind", "_left", "_mask", "_passing")

    def __init__(self) -> None:
        self._begun = b""
        # Bytes that are still to come: of a short frame, which passes as it is; or of the data of a long one.
        self._passing = self._left = 0
        self._kind = self._end = 0
        self._mask = b""

    def feed(self, data: bytes) -> bytes:
        """Take what has come; returns what is to be read."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if not self._passing and not self._left:
                head = self._read_head(data[at : at + _LONGEST_HEAD])
                if head is None:
                    break
                at += head
            elif self._passing:
                step = min(self._passing, end - at)
                pieces.append(data[at : at + step])
                self._passing -= step
                at += step
            else:
                step = min(self._left, end - at)
                # Each fragment is unmasked from the start of the mask.
                step -= 0 if step == self._left else step % _MASK_BYTES
                if not step:
                    break
                self._left -= step
                pieces += self._head(step), data[at : at + step]
                at += step
        self._begun = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_head(self, head: bytes) -> int | None:
        """How much is left out: the head of a long frame, nothing of a short one. None: it has not come whole."""
        if len(head) < 2:
            return None
        length, after = head[1] & ~_MASKED, 2
        if length >= 126:
            after = 4 if length == 126 else 10
            length = int.from_bytes(head[2:after], "big")
        after += _MASK_BYTES if head[1] & _MASKED else 0
        if len(head) < after:
            return None
        if length <= LONG_BYTES:
            self._passing = after + length
            return 0
        self._left = length
        self._mask = head[after - _MASK_BYTES : after] if head[1] & _MASKED else b""
        self._kind, self._end = head[0] & ~_FIN, head[0] & _FIN
        return after

    def _head(self, length: int) -> bytes:
        """The head of a fragment with so much data. All but the first go on from what came before."""
        first = self._kind | (0 if self._left else self._end)
        self._kind = 0
        masked = _MASKED if self._mask else 0
        if length < 126:
            return bytes((first, masked | length)) + self._mask
        if length < 1 << 16:
            return bytes((first, masked | 126)) + length.to_bytes(2, "big") + self._mask
        return bytes((first, masked | 127)) + length.to_bytes(8, "big") + self._mask
