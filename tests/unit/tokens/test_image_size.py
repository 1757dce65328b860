import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.image_size import Size, inline_size, size_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes([0, 0, 0, 13]) + b"IHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
GIF = b"GIF89a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")
VP8X = b"RIFF....WEBPVP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
VP8L = b"RIFF....WEBPVP8L" + bytes(4) + b"\x2f" + (639 | 479 << 14).to_bytes(4, "little") + bytes(5)
VP8 = b"RIFF....WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")
FRAME = b"\xff\xc2\x00\x11\x08" + (480).to_bytes(2, "big") + (640).to_bytes(2, "big") + bytes(8)
EXIF = b"\xff\xe1\xff\xff" + bytes(0xFFFD)
IMAGES = {
    "png": PNG, "gif": GIF, "vp8x": VP8X, "vp8l": VP8L, "vp8": VP8, "jpeg": b"\xff\xd8" + FRAME,
    "jpeg with a mark": b"\xff\xd8\xff\xd0" + FRAME,
    "jpeg with tables": b"\xff\xd8\xff\xc4\x00\x04AA\xff" + FRAME, "jpeg with metadata": b"\xff\xd8" + EXIF * 3 + FRAME,
}  # fmt: skip


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("name", IMAGES)
def test_every_format_tells_its_size(name: str) -> None:
    """The content decides, not the declared type."""
    assert inline_size(url(IMAGES[name] + bytes(100))) == Size(640, 480)


@pytest.mark.parametrize("name", IMAGES)
def test_a_cut_image_raises_nothing(name: str) -> None:
    """An image cut at any byte has its size or none."""
    data = IMAGES[name]
    for end in range(0, len(data), 1 + len(data) // 200):
        assert size_of(data[:end]) in (None, Size(640, 480))


@given(st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8", b"RIFF....WEBP", b"GIF89a", PNG[:16]]))
def test_any_bytes_raise_nothing(data: bytes, magic: bytes) -> None:
    """The bytes are the client's; whatever they are, there is an answer."""
    size = size_of(magic + data)
    assert size is None or (size.width > 0 and size.height > 0)


@given(st.text(max_size=80))
def test_any_url_raises_nothing(text: str) -> None:
    """So is the URL."""
    for prefix in ("", "data:image/png;base64,", "DATA:;BASE64,"):
        inline_size(prefix + text)


def test_a_huge_image_costs_only_its_head() -> None:
    """20 MB of picture are not decoded to learn its size."""
    huge = url(PNG) + "A" * 28_000_000
    started = time.thread_time()
    assert inline_size(huge) == Size(640, 480)
    assert time.thread_time() - started < 0.05


@pytest.mark.parametrize("data", [b"\xff\xd8no marker", b"RIFF....WEBPVP9 " + bytes(30)])
def test_an_image_of_another_kind_has_no_size(data: bytes) -> None:
    """It begins like one that we know."""
    assert size_of(data) is None


def test_a_size_behind_a_megabyte_is_not_looked_for() -> None:
    """So much metadata no camera writes."""
    assert inline_size(url(b"\xff\xd8" + EXIF * 20 + FRAME)) is None


def test_what_is_no_base64_has_no_size() -> None:
    """A provider will refuse it."""
    assert inline_size("data:image/png;base64,A===B" + "=" * 100) is None
