"""Content codings (RFC 9110, 8.4.1): those of a body, and the body without them, with a bound on what comes out.

A few bytes can hold a gigabyte, so a body is decoded piece by piece and no further than its bound: the memory for it is
the bound, and a window that a coding needs (16 MB for br, 8 MB for zstd, which RFC 9659 allows at most).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ACCEPTED = b"gzip, deflate, br, zstd"
"""As an Accept-Encoding header has it."""

MOST_CODINGS = 3
"""Upon each other. Nobody is known to use two; each may cost as much time as the largest body takes."""

_MOST_PARTS = 1_000
"""Members of gzip, frames of zstd in one body: parallel compressors write one for each megabyte or so. Each costs a
decoder, so a body of empty ones must not be as long as it likes."""

_PIECE_BYTES = 64 * 1024
_TELLING_BYTES = 2
_ZSTD_OPTIONS: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's numbers for what is around the deflated bytes, with the largest window."""


class UnknownCoding(ValueError):
    """A coding that is not ACCEPTED, or too many of them."""


class Undecodable(ValueError):
    """The body is not, or not wholly, in the coding that it should be in."""


class Oversized(ValueError):
    """More comes out than is allowed."""


class _Decoder(Protocol):
    """As the standard library's decompressors are (PEP 784): `max_length` bounds what one call returns."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    unused_data = b""
    needs_input = True

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)
        self.eof = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(data or self._zlib.unconsumed_tail, max_length)
        self.eof, self.unused_data = self._zlib.eof, self._zlib.unused_data
        # Without a tail zlib itself may still hold something back, but not after less than was asked for.
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < max_length
        return piece


class _Brotli:
    unused_data = b""
    needs_input = True

    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()
        self.eof = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        # What follows the end is an error to it.
        piece: bytes = self._brotli.process(data, output_buffer_limit=max_length)
        self.eof = self._brotli.is_finished()
        # It holds back all beyond the length, and says so only while it also holds unread input.
        self.needs_input = self._brotli.can_accept_more_data() and len(piece) < max_length
        return piece


def codings_of(header: bytes | None) -> tuple[str, ...]:
    """The codings that a Content-Encoding header names, in the order in which they are undone; mostly none.

    `identity` and empty elements are none, `x-gzip` is gzip (RFC 9110, 8.4.1.3). Raises UnknownCoding.
    """
    if header is None:
        return ()
    named = [name.strip().lower() for name in header.decode("latin-1").split(",")]
    codings = tuple({"x-gzip": "gzip"}.get(name, name) for name in reversed(named) if name not in ("", "identity"))
    if len(codings) > MOST_CODINGS or any(coding not in _DECODERS for coding in codings):
        raise UnknownCoding
    return codings


def decode(body: bytes, codings: tuple[str, ...], most_bytes: int) -> bytes:
    """The body without these codings. Takes 0.1 s for 32 MB, nearly all of it without the GIL.

    Raises Undecodable, and Oversized where more than most_bytes come out, of whichever coding.
    """
    for coding in codings:
        undoing = _Undoing(coding)
        pieces: list[bytes] = []
        size = 0
        for start in range(0, len(body), _PIECE_BYTES):
            for piece in undoing.feed(body[start : start + _PIECE_BYTES]):
                pieces.append(piece)
                size += len(piece)
                if size > most_bytes:
                    raise Oversized
        undoing.finish()
        body = b"".join(pieces)
    return body


class StreamDecoder:
    """Undoes the codings of a body that comes in pieces."""

    def __init__(self, codings: tuple[str, ...]) -> None:
        self._undoings = [_Undoing(coding) for coding in codings]

    def feed(self, data: bytes, most_bytes: int) -> bytes:
        """What comes out of the next piece. Raises Undecodable, and Oversized beyond most_bytes of any coding."""
        for undoing in self._undoings:
            pieces, size = [], 0
            for piece in undoing.feed(data):
                pieces.append(piece)
                size += len(piece)
                if size > most_bytes:
                    raise Oversized
            data = b"".join(pieces)
        return data

    def finish(self) -> None:
        """The body is over. Raises Undecodable where it is not whole."""
        for undoing in self._undoings:
            undoing.finish()


class _Undoing:
    """One coding of one body."""

    def __init__(self, coding: str) -> None:
        self._new, self._most_parts = _DECODERS[coding]
        self._decoder: _Decoder | None = None
        self._first = b""
        self._parts = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out of the next piece of the body, itself in pieces of a bounded size. Raises Undecodable."""
        try:
            yield from self._feed(data)
        except (zlib.error, zstd.ZstdError, brotli.error) as error:
            raise Undecodable from error

    def _feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            data = self._first + data
            if self._new is _deflate and len(data) < _TELLING_BYTES:
                # Its first bytes tell what it is.
                self._first = data
                return
            self._begin(data)
        decoder = self._decoder
        assert decoder is not None
        while data or not (decoder.needs_input or decoder.eof):
            if decoder.eof:
                decoder = self._begin(self._first)
            yield decoder.decompress(data, _PIECE_BYTES)
            data = decoder.unused_data if decoder.eof else b""

    def _begin(self, first: bytes) -> _Decoder:
        self._first, self._parts = first[:_TELLING_BYTES], self._parts + 1
        if self._parts > self._most_parts:
            raise Undecodable
        decoder = self._decoder = self._new(self._first)
        return decoder

    def finish(self) -> None:
        """The body is over. Raises Undecodable where it is not whole."""
        if self._decoder is None or not self._decoder.eof:
            raise Undecodable


def _deflate(body: bytes) -> _Decoder:
    """`deflate` is zlib's format (RFC 9110, 8.4.1.2), yet some send it bare: the first bytes tell (RFC 1950, 2.2)."""
    wrapped = body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return _Inflate(_ZLIB if wrapped else _RAW)


_DECODERS: dict[str, tuple[Callable[[bytes], _Decoder], int]] = {
    "gzip": (lambda _: _Inflate(_GZIP), _MOST_PARTS),
    "deflate": (_deflate, 1),
    "br": (lambda _: _Brotli(), 1),
    "zstd": (lambda _: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS), _MOST_PARTS),
}
"""How a body is decoded, and how many parts it may have."""
