"""Streams that are damaged at random, and a relay for them without a network: whatever comes, nothing may go free."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from sentinel.error import UpstreamError
from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.relay import Relay
from tests.support.transcripts import Transcript

ODD = [None, True, False, 7, -1, 1.5, "", " odd", "17", [], {}, [" odd"], {"text": " odd"}, {"a": {"b": [" odd"]}}]
TEXT_FIELDS = ["content", "refusal", "reasoning", "reasoning_content", "text", "thinking", "transcript", "a_new_field"]
_COUNTING = ThreadPoolExecutor(1)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def drop(container: Any, key: Any, _: Any) -> None:
    del container[key]


def retype(container: Any, key: Any, odd: Any) -> None:
    container[key] = copy.deepcopy(odd)


def nest(container: Any, key: Any, odd: Any) -> None:
    container[key] = [container[key]] if odd else {"inner": container[key]}


def double(container: Any, key: Any, odd: Any) -> None:
    if isinstance(container, dict):
        container[TEXT_FIELDS[len(str(odd)) % len(TEXT_FIELDS)]] = copy.deepcopy(container[key])
    else:
        container.insert(key, copy.deepcopy(container[key]))


MUTATIONS: list[Callable[[Any, Any, Any], None]] = [drop, retype, nest, double]


@st.composite
def damaged(draw: st.DrawFn, transcripts: list[Transcript]) -> list[bytes]:
    """The events of one of these streams, some of them damaged."""
    transcript = draw(st.sampled_from(transcripts))
    events = copy.deepcopy(transcript.events)
    for _ in range(draw(st.integers(1, 4))):
        event = draw(st.sampled_from(events))
        if isinstance(event, dict) and (there := list(places(event))):
            container, key = there[draw(st.integers(0, len(there) - 1))]
            draw(st.sampled_from(MUTATIONS))(container, key, draw(st.sampled_from(ODD)))
    return transcript.data(events)


def pieces_of(events: list[bytes], sizes: list[int]) -> list[bytes]:
    """The same bytes, cut anywhere."""
    whole, pieces, start = b"".join(events), [], 0
    for size in sizes:
        pieces.append(whole[start : start + size])
        start += size
    return [piece for piece in (*pieces, whole[start:]) if piece]


def chunk_of(piece: bytes) -> bytes:
    """A piece of a body as HTTP has it."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def inside_of(chunk: bytes) -> bytes:
    """The opposite."""
    piece = chunk.partition(b"\r\n")[2][:-2]
    assert chunk == chunk_of(piece)
    return piece


class Client:
    """Takes everything at once."""

    is_full = gone = False

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def pass_on(self, piece: bytes) -> None:
        self.got.append(piece)

    def chunk_writer(self, _: Callable[[], None]) -> Callable[[bytes], None]:
        return lambda chunk: self.got.append(inside_of(chunk))

    async def write(self, piece: bytes) -> None:
        self.got.append(piece)


class Upstream:
    """Sends these pieces, each as a chunk of HTTP."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def flow(self, take: Callable[[bytes], bytes | None], take_chunk: TakeChunk) -> bytes | None:
        for piece in self._pieces:
            if not take_chunk(chunk_of(piece)) and (rest := take(piece)) is not None:
                return rest
        return None

    async def read(self) -> bytes | None:
        return next(self._pieces, None)


@dataclass
class Lease:
    """One that does not end."""

    output: int
    ends: float = math.inf
    noted: int = 0


class Leases:
    """Nothing is left."""

    async def extend(self, held: Lease, more: int, delivered: int) -> int:
        return 0


def relayed(pieces: list[bytes], meter: StreamMeter, room: int | None = None) -> tuple[Relay, bytes]:
    """A stream that was relayed to its end, its break, or its limit; and what the client got but for the last event."""
    client, lease = Client(), Lease(room or 0)
    relay = Relay(client, meter, Leases(), lease, _COUNTING, is_limited=room is not None)  # type: ignore[arg-type]
    with contextlib.suppress(UpstreamError):
        asyncio.run(relay.run(Upstream(pieces)))  # type: ignore[arg-type]
    return relay, b"".join(client.got)
