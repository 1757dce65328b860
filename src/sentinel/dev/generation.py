"""An accepted request, answered in one piece or as a stream, as its directive says; what that costs is billed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sentinel.dev.bodies import cut_in_two

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sentinel.dev.bodies import Event
    from sentinel.dev.directive import Directive
    from sentinel.dev.exchange import Exchange
    from sentinel.dev.reply import Reply

_SPLIT_SECONDS = 0.001  # Between the two writes of a split event; without it the reader may get both at once.


@dataclass(slots=True)
class Billed:
    """What the provider charges for one request, at this moment.

    request_id: the x-request-id that the caller sent, "" if none. completion_tokens: what was generated and written so
    far; after a "complete" answer what its usage says. state: "cancelled" when the client left before the end, "broken"
    when a directive had it fail midway. requests: how many it is billed as, more than one of a batch.
    """

    request_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    state: Literal["running", "complete", "cancelled", "broken"]
    stream: bool
    path: str
    requests: int = 1


class Form(Protocol):
    """How a format says an answer."""

    @property
    def reasoning(self) -> int:
        """Tokens that were thought, and are in no reply."""

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """The usage object of the finished answer."""

    def whole(self, replies: list[Reply], usage_object: dict[str, Any] | None) -> bytes:
        """The answer in one piece. usage_object: None leaves it out."""

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        """The answer as events, up to and without what is said once its cost is known."""

    def ending(self, replies: list[Reply], usage_object: dict[str, Any] | None, directive: Directive) -> list[bytes]:
        """The events that end a finished stream. usage_object: None leaves it out."""

    def failure(self) -> bytes:
        """What ends a stream that fails on its way."""


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request, decided in full before its first byte goes out. headers: makes those of the answer.

    content_type: of a stream. goes_on: whoever leaves, as what is done in the background. asked: the request's body.
    """

    form: Form
    replies: list[Reply]
    directive: Directive
    bill: Billed
    headers: Callable[[], list[tuple[str, str]]]
    content_type: str = "text/event-stream; charset=utf-8"
    goes_on: bool = False
    asked: dict[str, Any] = field(default_factory=dict)

    def usage(self) -> dict[str, Any]:
        """The usage of the finished answer, from which the bill is made."""
        true_tokens = sum(reply.tokens for reply in self.replies) + self.form.reasoning
        claimed = self.directive.usage_completion
        self.bill.completion_tokens = true_tokens if claimed is None else claimed
        return self.form.usage(self.bill.prompt_tokens, self.bill.completion_tokens)


async def generate(exchange: Exchange, job: Job) -> None:
    """Answer the request."""
    try:
        await (_stream(exchange, job) if job.bill.stream and not job.directive.no_stream else _answer(exchange, job))
    finally:
        if job.goes_on:
            job.usage()
            job.bill.state = "complete"
        elif job.bill.state == "running":
            job.bill.state = "cancelled"


async def _answer(exchange: Exchange, job: Job) -> None:
    directive = job.directive
    if directive.hang_after is not None:
        await exchange.pause(None)
        return
    wait_seconds = directive.seconds(max(len(reply.pieces) for reply in job.replies))
    if wait_seconds and not await exchange.pause(wait_seconds):
        return
    if not await exchange.writable():
        return
    body = job.form.whole(job.replies, None if directive.no_usage else job.usage())
    job.usage()  # It is billed whether or not it is told.
    if directive.break_after is None:
        job.bill.state = "complete"
        await exchange.answer(200, body, job.headers())
        return
    job.bill.state = "broken"
    await exchange.begin(200, [("content-length", str(len(body))), *job.headers()])
    await exchange.write(body[: len(body) // 2])
    await exchange.cut()


async def _stream(exchange: Exchange, job: Job) -> None:
    await exchange.begin(200, job.headers(), job.content_type)
    if not await _stream_reply(exchange, job) or not await exchange.writable():
        return
    usage_object = job.usage()
    job.bill.state = "complete"
    told = None if job.directive.no_usage else usage_object
    for data in job.form.ending(job.replies, told, job.directive):
        await _write(exchange, data, job.directive)
    await exchange.end()


async def _stream_reply(exchange: Exchange, job: Job) -> bool:
    """Write the reply chunk by chunk, billing each one as it goes out. False if it was not finished."""
    directive, chunks = job.directive, 0
    job.bill.completion_tokens = job.form.reasoning
    for event in job.form.events(job.replies, directive):
        if event.tokens:
            if _stops(directive, chunks):
                break
            delay_seconds = directive.delay if chunks else directive.first_delay
            if delay_seconds and not await exchange.pause(delay_seconds):
                return False
        elif chunks and _stops(directive, chunks):
            break
        if not await exchange.writable():
            return False
        job.bill.completion_tokens += event.tokens
        chunks += bool(event.tokens)
        await _write(exchange, event.data, directive)
    if directive.break_after == chunks:
        job.bill.state = "broken"
        await exchange.cut()
        return False
    if directive.error_after == chunks:
        job.bill.state = "broken"
        await _write(exchange, job.form.failure(), directive)
        await exchange.end()
        return False
    if directive.hang_after == chunks:
        await exchange.pause(None)
        return False
    return True


def _stops(directive: Directive, chunks: int) -> bool:
    return chunks in {directive.break_after, directive.error_after, directive.hang_after}


async def _write(exchange: Exchange, data: bytes, directive: Directive) -> None:
    cut = cut_in_two(data, directive.split) if directive.split else 0
    if cut:
        await exchange.write(data[:cut])
        await exchange.pause(_SPLIT_SECONDS)
    await exchange.write(data[cut:])
