"""Content codings: named in any spelling, undone with a bound, refused where they are broken."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.content_coding import (
    MOST_CODINGS,
    Oversized,
    StreamDecoder,
    Undecodable,
    UnknownCoding,
    codings_of,
    decode,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST = 1 << 20
BODY = b'{"model":"gpt-4o","messages":[]}'


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


def streamed_zstd(body: bytes) -> bytes:
    """As a client writes it that does not know the length beforehand, with a checksum."""
    compressor = zstd.ZstdCompressor(
        options={zstd.CompressionParameter.checksum_flag: 1, zstd.CompressionParameter.content_size_flag: 0}
    )
    half = len(body) // 2
    return compressor.compress(body[:half], zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.compress(
        body[half:], zstd.ZstdCompressor.FLUSH_FRAME
    )


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate, stored": ("deflate", lambda body: zlib.compress(body, 0)),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", lambda body: brotli.compress(body, quality=5)),  # As servers do; its best takes thirty times as long.
    "zstd": ("zstd", lambda body: zstd.compress(body, 3)),
    "zstd, streamed": ("zstd", streamed_zstd),
}
coded = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS)


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        (None, ()),
        (b"", ()),
        (b"identity", ()),
        (b"Identity , IDENTITY,, ", ()),
        (b"GZip", ("gzip",)),
        (b"x-gzip", ("gzip",)),
        (b"gzip, identity", ("gzip",)),
        (b"identity,zstd", ("zstd",)),
        (b"deflate, br", ("br", "deflate")),
    ],
)
def test_codings_are_undone_from_the_last_to_the_first(header: bytes | None, codings: tuple[str, ...]) -> None:
    """In any case; what changes nothing is left out (RFC 9110, 8.4)."""
    assert codings_of(header) == codings


@pytest.mark.parametrize(
    "header", [b"foo", b"compress", b"x-compress", b"gzip;q=1", b"gzip, foo", b"*", b"gz ip", b"\xff", b"aws-chunked"]
)
def test_others_are_unknown(header: bytes) -> None:
    """One of them is enough."""
    with pytest.raises(UnknownCoding):
        codings_of(header)


def test_codings_upon_each_other_are_bounded() -> None:
    """So many and no more."""
    assert codings_of(b", ".join([b"br"] * MOST_CODINGS)) == ("br",) * MOST_CODINGS
    with pytest.raises(UnknownCoding):
        codings_of(b", ".join([b"br"] * (MOST_CODINGS + 1)))


@coded
@given(unit=st.binary(max_size=300), times=st.sampled_from([1, 1, 200, 3_000]))
def test_what_was_encoded_comes_out(coding: str, encode: Callable[[bytes], bytes], unit: bytes, times: int) -> None:
    """Of any bytes, also where one piece gives many."""
    body = unit * times
    assert decode(encode(body), (coding,), MOST) == body


def test_layers_are_undone_in_turn() -> None:
    """The bound holds for each."""
    packed = zstd.compress(gzip.compress(brotli.compress(BODY)))
    assert decode(packed, codings_of(b"br, gzip, zstd"), MOST) == BODY
    bomb = gzip.compress(gzip.compress(b"\0" * (MOST + 1)))
    with pytest.raises(Oversized):
        decode(bomb, ("gzip", "gzip"), MOST)


@coded
def test_what_is_cut_or_followed_by_something_is_undecodable(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """At every byte; nothing of a body is believed before its end is seen."""
    packed = encode(BODY)
    for end in range(len(packed)):
        with pytest.raises(Undecodable):
            decode(packed[:end], (coding,), MOST)
    with pytest.raises(Undecodable):
        decode(packed + b"x", (coding,), MOST)


@coded
@given(data=st.data())
def test_broken_bytes_raise_nothing_else(coding: str, encode: Callable[[bytes], bytes], data: st.DataObject) -> None:
    """Whatever is wrong, it is Undecodable, or goes unseen where the format has no checksum."""
    packed = bytearray(encode(BODY * 20))
    for position in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=4)):
        packed[position] ^= data.draw(st.integers(1, 255))
    try:
        assert len(decode(bytes(packed), (coding,), MOST)) <= MOST
    except (Undecodable, Oversized):
        return


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("body", [b"", BODY, b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\0" * 100])
def test_what_never_was_in_the_coding_is_undecodable(coding: str, body: bytes) -> None:
    """A body that says more than it is."""
    with pytest.raises(Undecodable):
        decode(body, (coding,), MOST)


@coded
def test_the_bound_is_the_largest_body(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """One byte more is too many."""
    assert len(decode(encode(b"a" * MOST), (coding,), MOST)) == MOST
    with pytest.raises(Oversized):
        decode(encode(b"a" * (MOST + 1)), (coding,), MOST)


@coded
def test_a_bomb_takes_no_more_memory_than_the_bound(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """64 MB in some kilobytes are given up as soon as they are too many."""
    bomb = encode(b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Oversized):
            decode(bomb, (coding,), MOST)
        assert tracemalloc.get_traced_memory()[1] < 2 * MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("coding", "encode"), [ENCODERS["gzip"], ENCODERS["zstd"]], ids=["gzip", "zstd"])
def test_members_and_frames_are_one_body(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """As parallel compressors write them; but a body of a million empty ones is none."""
    assert decode(encode(BODY) * 3 + encode(b"") + encode(b"!"), (coding,), MOST) == BODY * 3 + b"!"
    with pytest.raises(Undecodable):
        decode(encode(b"") * 50_000, (coding,), MOST)


def test_a_frame_may_be_one_to_skip() -> None:
    """RFC 8878, 3.1.2."""
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"abcde"
    assert decode(skipped + zstd.compress(BODY) + skipped, ("zstd",), MOST) == BODY


def test_a_window_beyond_8_mb_is_undecodable() -> None:
    """RFC 9659: who decodes zstd in HTTP need not hold more."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 24,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(b"x" * 100) + compressor.flush()
    with pytest.raises(Undecodable):
        decode(packed, ("zstd",), MOST)


@given(st.lists(st.integers(1, 40), max_size=6))
def test_a_stream_is_decoded_wherever_it_is_cut(sizes: list[int]) -> None:
    """Two codings, one around the other, piece by piece."""
    coded, decoder, out = brotli.compress(gzip.compress(BODY)), StreamDecoder(("br", "gzip")), b""
    for size in [*sizes, len(coded)]:
        out += decoder.feed(coded[:size], MOST)
        coded = coded[size:]
    decoder.finish()
    assert out == BODY


def test_a_stream_is_bounded_piece_by_piece() -> None:
    """A small piece that becomes a large one is refused before all of it is there."""
    with pytest.raises(Oversized):
        StreamDecoder(("gzip",)).feed(gzip.compress(bytes(MOST + 1)), MOST)


def test_a_stream_that_was_cut_is_none() -> None:
    """What is left of it would pass for all of it."""
    decoder = StreamDecoder(("gzip",))
    decoder.feed(gzip.compress(BODY)[:-4], MOST)
    with pytest.raises(Undecodable):
        decoder.finish()
