"""The trace of one request: where it belongs in what its client does, and what of it went to which provider.

Only names and moments; observability/tracing.py begins it and makes spans of it once the request has ended. Without
tracing no request has one. Source: W3C Trace Context, level 2.
"""

from __future__ import annotations

import os
import random
import re
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

# Ids must differ between all processes, and the lower bits must be random, for samplers go by them.
_bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311

SAMPLED, RANDOM = 1, 2
"""Bits of a context's flags: somebody records it; its id is random."""
_TRACE_BITS, _SPAN_BITS = 128, 64
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_PORTS = {"http": 80, "https": 443}
_MOST_SENT = 32
"""Of one request; a WebSocket that stays for days may have its provider's side opened more often."""


class Place(NamedTuple):
    """Whom a request goes to: by its name in the conventions for GenAI, and where that is."""

    system: str
    address: str
    port: int

    @classmethod
    def of(cls, system: str, url: str) -> Place:
        """That of a provider at this URL."""
        parts = urlsplit(url)
        return cls(system, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))


NOWHERE = Place("", "", 0)


class Parent(NamedTuple):
    """What a client says that a request belongs to."""

    trace_id: int
    span_id: int
    flags: int


def parent_of(traceparent: bytes) -> Parent | None:
    """What the header says; None where it is not valid, so that a trace begins here."""
    found = _PARENT.fullmatch(traceparent)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return Parent(trace_id, span_id, int(found[4], 16)) if trace_id and span_id else None


def new_trace_id() -> int:
    """An id for a trace that begins here."""
    return _bits(_TRACE_BITS) or 1


def new_span_id() -> int:
    """An id for a span."""
    return _bits(_SPAN_BITS) or 1


class SentRequest(msgspec.Struct):
    """A request as it went to a provider. Moments are monotonic seconds, 0 = not yet.

    provider: by its name here. model: as that names it. ended: its head has come, or it has failed. status: of the
    answer, 0 = none. error: the code of ours where there is none.
    """

    span_id: int
    place: Place
    provider: str
    model: str
    is_translated: bool
    began: float
    ended: float = 0.0
    status: int = 0
    error: str | None = None
    retry_after_seconds: float | None = None

    def answered(self, status: int, retry_after_seconds: float | None, now: float) -> None:
        """The head of its answer has come."""
        self.status, self.retry_after_seconds, self.ended = status, retry_after_seconds, now

    def failed(self, error: str | None, now: float) -> None:
        """There is no answer. error: None where nobody has waited for it any more."""
        self.error, self.ended = error, now


class Trace(msgspec.Struct):
    """A request within its trace. parent_id: of the span that it belongs to, 0 = none; is_remote: it is the client's.

    flags: as in the header. state: what others have added, as it is passed on. over: the handshake of the WebSocket
    over which it goes.
    """

    trace_id: int
    span_id: int
    parent_id: int
    flags: int
    state: str = ""
    is_remote: bool = True
    over: SentRequest | None = None
    sent: list[SentRequest] = msgspec.field(default_factory=list)

    @property
    def is_sampled(self) -> bool:
        """Whether its spans are exported."""
        return bool(self.flags & SAMPLED)

    @property
    def id(self) -> str:
        """Its id, as logs and other systems have it."""
        return f"{self.trace_id:032x}"

    @property
    def span(self) -> str:
        """The id of the request's span within it."""
        return f"{self.span_id:016x}"

    def below(self) -> Trace:
        """What belongs to this request, and is one of its own, such as a message over its WebSocket."""
        over = self.sent[-1] if self.sent else None
        return Trace(self.trace_id, new_span_id(), self.span_id, self.flags, self.state, is_remote=False, over=over)

    def goes_to(self, place: Place, provider: str, model: str, now: float, *, is_translated: bool) -> SentRequest:
        """It is sent there, with `header_lines`."""
        sent = SentRequest(new_span_id(), place, provider, model, is_translated, now)
        if len(self.sent) == _MOST_SENT:
            del self.sent[0]
        self.sent.append(sent)
        return sent

    def header_lines(self) -> bytes:
        """What tells its provider where the request that it is sent now belongs."""
        parent = b"traceparent: 00-%032x-%016x-%02x\r\n" % (self.trace_id, self.sent[-1].span_id, self.flags)
        return b"%btracestate: %b\r\n" % (parent, self.state.encode()) if self.state else parent
