"""The size of an image that lies inline in a `data:` URL, read from its first bytes. The pixels are never decoded.

The bytes are the client's and may be anything: every reader answers None for what it does not understand.
Sources: PNG (ISO 15948, 11.2.2 IHDR), GIF89a section 18, JPEG (ITU T.81, B.2.2 frame header), WebP (RFC 9649).
"""

from binascii import Error, a2b_base64
from dataclasses import dataclass
from typing import Final

# base64 characters to decode: first what PNG, GIF, WebP and most JPEG need, then room for a JPEG's metadata (an Exif
# or ICC segment holds 64 KB, there may be several). A JPEG that hides its size still deeper is of unknown size.
_PREFIXES: Final = (4_096, 1_048_576)

# Frame headers (start of frame): C0-CF without the tables C4 (Huffman), C8 (reserved) and CC (arithmetic coding).
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels, both at least 1."""

    width: int
    height: int


def _size(width: int, height: int) -> Size | None:
    return Size(width, height) if width > 0 and height > 0 else None


def _png(head: bytes) -> Size | None:
    if len(head) < 24 or head[12:16] != b"IHDR":
        return None
    return _size(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))


def _gif(head: bytes) -> Size | None:
    if len(head) < 10:
        return None
    return _size(int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little"))


def _webp(head: bytes) -> Size | None:
    if len(head) < 30 or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return _size(int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return _size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        return _size(int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF)
    return None


def _jpeg(head: bytes) -> Size | None:
    """Walk from marker to marker; each step moves on by at least two bytes, so it ends."""
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
        elif marker in _FRAME_MARKERS:
            return _size(int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big"))
        else:
            at += 2 + max(int.from_bytes(head[at + 2 : at + 4], "big"), 2)
    return None


_READERS: Final = ((b"\x89PNG\r\n\x1a\n", _png), (b"GIF8", _gif), (b"RIFF", _webp), (b"\xff\xd8", _jpeg))


def size_of(head: bytes) -> Size | None:
    """Return the size of the PNG, JPEG, GIF or WebP image that starts with `head`, or None if it does not say."""
    for magic, read in _READERS:
        if head.startswith(magic):
            return read(head)
    return None


def decoded_prefix(encoded: str, at: int, chars: int) -> bytes:
    """Decode up to `chars` base64 characters of `encoded` from index `at`; empty if they are not base64."""
    piece = encoded[at : at + chars]
    try:
        return a2b_base64(piece[: len(piece) // 4 * 4])
    except (Error, ValueError):
        return b""


def decoded(encoded: str) -> bytes:
    """Decode base64, also in the form that is safe in URLs; empty if it is not base64."""
    encoded = encoded.replace("-", "+").replace("_", "/")
    return decoded_prefix(encoded + "=" * (-len(encoded) % 4), 0, len(encoded) + 3)


def inline_size(url: str) -> Size | None:
    """Return the size of the image inside a base64 data URL; None for remote URLs and for what cannot be read."""
    if url[:5].lower() != "data:":
        return None
    at = url.find(",", 0, 256) + 1
    if not at or not url[:at].lower().endswith(";base64,"):
        return None
    for chars in _PREFIXES:
        size = size_of(decoded_prefix(url, at, chars))
        if size or len(url) - at <= chars:
            return size
    return None
