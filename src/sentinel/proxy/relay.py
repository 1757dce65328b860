"""A stream from the provider to the client: chunk by chunk as it comes, metered, ended when its limit is reached."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from sentinel.clock import monotonic
from sentinel.error import AppError, UpstreamError
from sentinel.memory_budget import Claim
from sentinel.middleware.lease_keeper import HeldLease, LeaseKeeper
from sentinel.proxy.chunk import MOST_BYTES
from sentinel.proxy.client import ClientSide
from sentinel.proxy.meter import MOST_PENDING_BYTES, StreamMeter
from sentinel.proxy.passing import Passing
from sentinel.proxy.provider import ProviderStream
from sentinel.proxy.sse import END_OF_EVENT, split_events
from sentinel.tasks import pause

EXTENSION_TOKENS = 1024
"""A stream that outgrows its reservation asks for this much more."""
LONG_EXTENSION_TOKENS, AHEAD_TOKENS = 4096, 1024
"""And, where that came in full, for so much, already when it has fewer than these left: one script call in about 4,000
chunks. What is left is told by bytes, as long as there are more tokens left than bytes of events to be counted."""

MOST_AT_ONCE_BYTES = 4 * 1024
"""Of one stream in one step: about 15 events, 0.2 ms. What a provider sends at once is up to 256 KB of them."""

LARGE_EVENT_BYTES = 32 * 1024
"""Of one event. What is larger is read in a thread: its text may take 0.45 us a byte to count."""

_LAST_READ_SECONDS = 0.5
_MOST_TRAIL_BYTES = 4 * 1024
"""After a last event; what is more is no end of a stream."""
ABANDONED_SECONDS = 600.0
"""So long ABANDONED_STREAMS=drain reads on."""
LAST_USAGE_SECONDS = 5.0
"""So long usage is waited for where it is all that is missing of a stream, or may be more than was seen."""
SHUTDOWN_USAGE_SECONDS = 3.0
"""The same where the process ends: app.py gives the last exchanges five seconds."""
MOST_DRAINS = 1_000
"""Streams of a process that are read on for nobody; beyond it they are cancelled."""

_WHOLE = re.compile(rb"^content-type: *(application/json|text/html)\b", re.IGNORECASE | re.MULTILINE)
_EVENTS = re.compile(rb"^content-type: *text/event-stream\b", re.IGNORECASE | re.MULTILINE)

_BEFORE_JSON = b" \t\r\n\xef\xbb\xbf"

T = TypeVar("T")


@dataclass
class Drains:
    """How many streams of this process are read on for nobody."""

    now: int = 0


def drain_seconds(*, left: bool, has_finished: bool, hides_output: bool, drain_abandoned: bool) -> float:
    """So long the usage of a stream that nobody gets any more is worth waiting for; 0 = not at all (ADR 0005).

    left: its client did, else the process ends. has_finished: each choice has its finish reason, so usage alone can
    follow. drain_abandoned: ABANDONED_STREAMS=drain.
    """
    if left and drain_abandoned:
        return ABANDONED_SECONDS
    if not has_finished and not (left and hides_output):
        return 0
    return LAST_USAGE_SECONDS if left else SHUTDOWN_USAGE_SECONDS


def is_event_stream(answer: ProviderStream) -> bool:
    """Whether an answer says that it is a stream of events."""
    return _EVENTS.search(answer.header_lines) is not None


async def is_whole(answer: ProviderStream) -> bool:
    """Whether an answer is no stream, by its content type and its first byte; not all streams say what they are."""
    return _WHOLE.search(answer.header_lines) is not None and (await answer.peek()).lstrip()[:1] in (b"{", b"[", b"<")


async def is_array(answer: ProviderStream) -> bool:
    """Whether an answer is a JSON array, by its first byte."""
    return (await answer.peek()).lstrip(_BEFORE_JSON).startswith(b"[")


class Relay:
    """One stream. is_limited: it may deliver as much output as its lease holds, and as it can be extended by.

    A process that was stopped for longer than a lease (SIGSTOP, a frozen machine) asks what is left of it before it
    delivers anything; where output is not limited, until the ledger was told that something is delivered.

    counting: threads for events that take long to read. claim: counts what is held of large ones. ended: the provider's
    stream was read to its end, so what it says of usage is final.
    """

    def __init__(
        self,
        client: ClientSide,
        meter: StreamMeter,
        leases: LeaseKeeper,
        lease: HeldLease,
        counting: Executor,
        claim: Claim | None = None,
        *,
        is_limited: bool,
    ) -> None:
        self.meter = meter
        self.at_limit = False
        self.ended = False
        self._client = client
        self._leases = leases
        self._lease = lease
        self._room = lease if is_limited else None
        self._counting = counting
        self._claim = claim
        self._capped: int | None = None
        self._plenty = False
        self._passing = client.passing = Passing(self._look_ahead, meter)
        if is_limited:
            meter.hold_whole()

    async def run(self, upstream: ProviderStream) -> None:
        """Relay until the provider's `[DONE]`, its end, or the limit. Raises UpstreamError, UpstreamTimeout."""
        self._lease.changed = self._passing.stop
        try:
            await self._run(upstream)
        finally:
            self._look_again()
            self._passing.close()

    async def _run(self, upstream: ProviderStream) -> None:
        unread = b""
        while not self.meter.done and (data := await upstream.flow(self._take, self._passing.take)) is not None:
            for start in range(0, len(data), MOST_AT_ONCE_BYTES):
                if start:
                    await pause(0)
                end = start + MOST_AT_ONCE_BYTES
                self._look_again()
                await self._deliver(await self._inspected(self.meter.cut(data[start:end])))
                if self.at_limit:
                    return
                if self.meter.is_done:
                    unread = data[end:]
                    break
            await self._hold()
        await self._deliver(await self._rest())
        if self.meter.broke_off or (not self.at_limit and self.meter.lacks_end()):
            raise UpstreamError("The model provider's answer broke off.")
        if not self.at_limit:
            await self._weigh_last()
        self.ended = not self.at_limit
        if self.ended and self.meter.may_trail:
            await self._take_trail(upstream, unread)

    async def _weigh_last(self) -> None:
        """A last event may say what none before it did; where that is too much, it is not for the client."""
        room, before, finished = self._room, self.delivered(), dict(self.meter.finished)
        is_large = len(self.meter.done) > LARGE_EVENT_BYTES
        after = await self._aside(self.meter.end) if is_large else self.meter.end()
        if room is not None and after > max(before, room.output):
            await self._extended(max(EXTENSION_TOKENS, after - room.output), max(0, before))
            if after > room.output:
                self.at_limit, self._capped = True, max(0, before)
                self.meter.take_back(finished)

    async def _take_trail(self, upstream: ProviderStream, unread: bytes) -> None:
        """Read what follows a last event, such as a `[DONE]` where none is needed: it comes at once, or never."""
        trail = self.meter.trail + self.meter.unfinished + unread
        with contextlib.suppress(TimeoutError, AppError):
            async with asyncio.timeout(_LAST_READ_SECONDS):
                while len(trail) <= _MOST_TRAIL_BYTES and (data := await upstream.read()) is not None:
                    trail += data
        self.meter.end_with(trail[:_MOST_TRAIL_BYTES])

    async def _hold(self) -> None:
        """Count what is held of a large event; where others hold too much, its provider waits."""
        claim = self._claim
        if claim is None:
            return
        held = self.meter.held_bytes + self.meter.waiting_bytes + self.meter.kept_bytes
        if held > LARGE_EVENT_BYTES:
            await claim.room(max(0, held - claim.bytes))
        elif claim.bytes:
            claim.took(-claim.bytes)

    def _take(self, data: bytes) -> bytes | None:
        """Deliver in passing what needs no waiting and no closer look: nearly all of a stream. Returns what is left."""
        client, meter = self._client, self.meter
        coming = len(data) + meter.held_bytes
        if coming > MOST_AT_ONCE_BYTES or client.is_full or client.gone or meter.done or meter.is_inside:
            return data
        lease, room = self._lease, self._room
        if (room is not None or lease.noted < 0) and monotonic() > lease.ends:
            return data
        if room is not None and not meter.fits(room.output - coming):
            return data
        self._look_again()
        block = meter.feed(data)
        if block:
            client.pass_on(block)
            meter.delivered(block)
        return b"" if self.meter.done else None

    def _look_ahead(self) -> None:
        """Find out how many bytes may pass from now on without a look at what was delivered."""
        meter, lease, room = self.meter, self._lease, self._room
        ends = lease.ends if room is not None or lease.noted < 0 else inf
        if not meter.may_pass() or monotonic() > ends:
            return
        free = MOST_PENDING_BYTES - meter.waiting_bytes
        if free < MOST_BYTES:
            # With less room than a chunk may need, what was delivered is taken apart first.
            meter.count()
            free = MOST_PENDING_BYTES - meter.waiting_bytes
        if room is not None and free > room.output - meter.upper_bound():
            free = room.output - meter.count()
            # Reserve ahead of need while there is plenty: near the end what was delivered is counted often.
            if self._plenty and free < AHEAD_TOKENS:
                return
        if (write := self._client.chunk_writer(self._passing.stop)) is not None:
            self._passing.go_on(free, ends, write)

    def _look_again(self) -> None:
        """Something else is about to be delivered: what has passed came before it."""
        passing = self._passing
        passing.stop()
        if passing.moved:
            passing.moved, self._client.last_piece = False, END_OF_EVENT

    async def _inspected(self, block: bytes) -> bytes:
        if len(block) > LARGE_EVENT_BYTES:
            return await self._aside(self.meter.inspect, block)
        return self.meter.inspect(block)

    async def _rest(self) -> bytes:
        if self.meter.held_bytes > LARGE_EVENT_BYTES:
            return await self._aside(self.meter.rest)
        return self.meter.rest()

    async def _aside(self, work: Callable[..., T], *block: bytes) -> T:
        """Do something with a large event beside the event loop; `delivered` says meanwhile what it said before."""
        self._capped = self.delivered()
        result = await asyncio.get_running_loop().run_in_executor(self._counting, work, *block)
        self._capped = None
        return result

    async def _deliver(self, block: bytes) -> None:
        if block and monotonic() > self._lease.ends:
            if self._room is not None:
                await self._leases.extend(self._lease, 0, self.delivered())
            elif self._lease.noted < 0:
                await self._leases.take_up(self._lease)
        if len(block) + self.meter.waiting_bytes <= LARGE_EVENT_BYTES:
            await self._deliver_block(block)
            return
        for event in split_events(block):
            if self.at_limit:
                break
            if len(event) + self.meter.waiting_bytes > LARGE_EVENT_BYTES and not self.meter.is_inside:
                await self._deliver_large(event)
            else:
                await self._deliver_block(event)

    async def _deliver_large(self, event: bytes) -> None:
        """Deliver an event that takes long to count: it is counted first, so a limit decides on all of it."""
        before, finished = self.delivered(), dict(self.meter.finished)
        try:
            after = await self._aside(self.meter.measure, event)
            room = self._room
            if room is not None and after > room.output:
                await self._extended(max(EXTENSION_TOKENS, after - room.output), max(0, before))
            if room is not None and after > room.output:
                self.at_limit, self._capped = True, max(0, before)
                self.meter.take_back(finished)
                return
            await self._client.write(event)
        except BaseException:
            # It has not been delivered.
            self._capped = before
            raise

    async def _deliver_block(self, block: bytes) -> None:
        if not block:
            return
        room = self._room
        ahead = AHEAD_TOKENS if self._plenty else 0
        if room is not None and self.meter.could_exceed(room.output - len(block) - ahead):
            await self._make_room(len(block) + ahead, room)
            if self.meter.could_exceed(room.output - len(block)):
                await self._deliver_within(block, room)
                return
        await self._client.write(block)
        # Not sooner: a client that reads too slowly and leaves has not got what waited for it.
        self.meter.delivered(block)

    async def _make_room(self, tokens: int, room: HeldLease) -> None:
        """Reserve ahead of need if the last extension came in full: then few events are looked at one by one."""
        delivered = self.meter.count()
        if self._plenty and delivered + tokens > room.output:
            await self._extended(max(LONG_EXTENSION_TOKENS, tokens), delivered)

    async def _extended(self, more: int, delivered: int) -> None:
        self._plenty = await self._leases.extend(self._lease, more, delivered) == more

    async def _deliver_within(self, block: bytes, room: HeldLease) -> None:
        """Deliver the part of the block that the reservation covers, extended where possible."""
        start = self.delivered()
        try:
            fits = await self._fitting(block, room)
            if fits:
                await self._client.write(fits)
        except BaseException:
            # Nothing of this block has been delivered.
            self._capped = start
            raise

    async def _fitting(self, block: bytes, room: HeldLease) -> bytes:
        fits = []
        for event in split_events(block):
            before, finished = self.meter.count(), dict(self.meter.finished)
            self.meter.delivered(event)
            after = self.meter.count()
            if after > room.output:
                await self._extended(max(EXTENSION_TOKENS, after - room.output), before)
            if after > room.output:
                self.at_limit, self._capped = True, before
                self.meter.take_back(finished)
                break
            fits.append(event)
        return b"".join(fits)

    def delivered(self) -> int:
        """Output tokens delivered so far, exactly; -1 before the provider has generated anything."""
        if self._capped is not None:
            return self._capped
        count = self.meter.count()
        return count if self.meter.generated else -1

    def roughly(self) -> int:
        """About how many that are, without counting them."""
        return self.meter.roughly()

    async def drain(self, upstream: ProviderStream, seconds: float) -> None:
        """Read on for the provider's usage although nobody gets what comes, but not for ever."""
        self.meter.hold_whole()
        with contextlib.suppress(TimeoutError, AppError):
            async with asyncio.timeout(seconds):
                while not self.meter.done and (data := await upstream.read()) is not None:
                    self.meter.feed(data)
                    await self._hold()
                self.meter.rest()
                self.ended = True

    async def finish(self, upstream: ProviderStream) -> None:
        """Read the end of the provider's answer after its `[DONE]`, so that its connection can be used again."""
        with contextlib.suppress(TimeoutError, AppError):
            async with asyncio.timeout(_LAST_READ_SECONDS):
                while await upstream.read() is not None:
                    pass
