"""What an exchange does whose provider goes on after its answer: the job is followed, and billed when it ends."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from sentinel.endpoints.jobs import Progress, progress_of, progress_of_beginning, progress_of_stream
from sentinel.error import ServiceUnavailable
from sentinel.proxy import billing
from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.provider import ProviderAnswer, ProviderStream
from sentinel.proxy.sse import EventBuffer, data_of, split_events
from sentinel.proxy.state import ExchangeState
from sentinel.tokens.counter import is_large
from sentinel.tokens.usage import NOTHING
from sentinel.usage.job_store import Job

log = structlog.get_logger()

_MOST_BEGUN_BYTES = 64 * 1024
"""Of a stream whose first event is not there yet."""


def demand_followers(exchange: ExchangeState) -> None:
    """Nothing may be begun that nobody could follow. Raises ServiceUnavailable."""
    if exchange.verdict.degraded:
        raise ServiceUnavailable(
            "What goes on in the background cannot be followed at the moment. Please try again later.",
            retry_after_seconds=5,
        )


async def follow_whole(exchange: ExchangeState, kind: str, body: bytes) -> bool:
    """Follow the job that a whole answer tells of; False where it is over, or none."""
    return await _follow(exchange, kind, await _progress(exchange, progress_of, kind, body))


async def follow_stream(exchange: ExchangeState, kind: str, stream: ProviderStream) -> ProviderStream:
    """Follow the job that a stream tells of in its first event: it goes on also if the stream breaks off.

    Returns the stream, with all that it has. Raises UpstreamError, UpstreamTimeout.
    """
    begun, progress, events = b"", None, EventBuffer()
    while (data := await stream.read()) is not None:
        begun += data
        whole = events.feed(data)
        if any(map(data_of, split_events(whole))):
            progress = await _progress(exchange, progress_of_stream, kind, whole)
            break
        if len(begun) > _MOST_BEGUN_BYTES:
            # It repeats long instructions; which job it is comes before them.
            progress = progress_of_beginning(begun)
            break
    if await _follow(exchange, kind, progress):
        assert exchange.context.user is not None
        await exchange.deps.ownership.record(exchange.context.user.id, exchange.created, place=exchange.place)
    return _Begun(stream, begun)


class _Begun:
    """A stream of which this was read already."""

    def __init__(self, stream: ProviderStream, begun: bytes) -> None:
        self.status, self.header_lines, self.id = stream.status, stream.header_lines, stream.id
        self.redactor = stream.redactor
        self._stream = stream
        self._begun = begun

    async def read(self) -> bytes | None:
        begun, self._begun = self._begun, b""
        return begun or await self._stream.read()

    async def flow(self, take: Callable[[bytes], bytes | None], take_chunk: TakeChunk | None = None) -> bytes | None:
        begun, self._begun = self._begun, b""
        if begun and (rest := take(begun)) is not None:
            return rest
        return await self._stream.flow(take, take_chunk)

    async def peek(self) -> bytes:
        return self._begun or await self._stream.peek()

    async def whole(self) -> ProviderAnswer:
        raise AssertionError("it is read piece by piece")

    def close(self) -> None:
        self._stream.close()


async def follow_passed(exchange: ExchangeState, kind: str, body: bytes) -> bool:
    """Follow the batch, or run, that an answer has begun: its request is billed at once, all else when it ends.

    False where it is over, or none (ADR 0016).
    """
    progress = await _progress(exchange, progress_of, kind, body)
    if progress is None or progress.is_over:
        return False
    of, started_ms = exchange.reservation, exchange.verdict.now_ms
    name = f"{of.id}.job"
    spends = (of.user, of.email, progress.model, 0, 0, started_ms)
    job = Job(progress.id, kind, name, *spends, is_held=False, below=progress.below, place=exchange.place)
    if not await exchange.deps.follower.begin(job):
        log.error("a job cannot be followed: what it costs is not billed", request_id=exchange.context.id, kind=kind)
    return True


async def _progress(
    exchange: ExchangeState, read: Callable[[str, bytes], Progress | None], kind: str, told: bytes
) -> Progress | None:
    """How far a job is: read beside the event loop where much is told, for an answer repeats its instructions."""
    return await exchange.deps.beside(read, kind, told) if is_large(len(told)) else read(kind, told)


async def _follow(exchange: ExchangeState, kind: str, progress: Progress | None) -> bool:
    if progress is None or progress.is_over:
        return False
    reservation = exchange.reservation
    job = Job(
        progress.id,
        kind,
        reservation.id,
        reservation.user,
        reservation.email,
        reservation.model,
        reservation.input_tokens,
        exchange.lease.output,
        exchange.verdict.now_ms,
        hides_output=exchange.bound.hides_output,
        place=exchange.place,
    )
    exchange.created = (progress.id,)
    if await exchange.deps.follower.begin(job):
        exchange.job = job
    else:
        # Nobody will learn what it costs, so it costs what was reserved for it.
        log.warning("a job cannot be followed, its reservation is billed", request_id=exchange.context.id)
        exchange.spent = billing.spent(NOTHING, exchange.context.counted_input, job.output_tokens)
    return True
