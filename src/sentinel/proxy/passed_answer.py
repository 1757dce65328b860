"""The answer to a request that is passed through: as it comes, but for JSON that tells of objects.

What an answer creates is its caller's before it leaves; a list shows its caller's own alone, over all pages. Such
answers are held, up to `MOST_HELD_BYTES`. The last piece of all others waits until their usage is durable.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import structlog

from sentinel.clock import monotonic
from sentinel.endpoints.families import ObjectPath, lifetime, object_path_of
from sentinel.endpoints.objects import (
    Created,
    Page,
    created_beside,
    created_in,
    first_id,
    page_of,
    told_in_events,
    usage_in,
)
from sentinel.error import AppError, RedisUnavailable, ServiceUnavailable, UpstreamError
from sentinel.limits.policy import Cost
from sentinel.proxy import headers as passing
from sentinel.proxy.billing import Spent
from sentinel.proxy.forwarding import room_of
from sentinel.proxy.jobs import follow_passed
from sentinel.proxy.provider import PassedStream
from sentinel.proxy.redaction import StreamRedactor
from sentinel.proxy.relay import LARGE_EVENT_BYTES
from sentinel.proxy.sse import EventBuffer, data_of, split_events
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage

if TYPE_CHECKING:
    from sentinel.proxy.state import ExchangeState
    from sentinel.proxy.whole import Complete

log = structlog.get_logger()

MOST_HELD_BYTES = 8 * 1024 * 1024
"""Of an answer in JSON. A page of a list, or an object, has some kilobytes to a few megabytes."""
MOST_PAGES = 100
"""Of others' objects that are looked through for one page with some of one's own: 10,000 objects."""
MOST_ITEMS = 10_000
"""Of a page: what OpenAI allows for files."""
_PAGE_ITEMS = 100
"""The most that a page may have at OpenAI, but for files; asked for where a page had nothing."""
_USUAL_ITEMS = 20

_TYPE = re.compile(rb"^content-type: *([^;\r\n ]*)", re.IGNORECASE | re.MULTILINE)
_UNSAID = (b"", b"text/plain")
_CREATING = ("POST", "PUT", "PATCH")

T = TypeVar("T")

AnotherPage = Callable[[bytes], Awaitable[PassedStream]]
"""The answer to the same request with another query."""


class PassedAnswer:
    """One answer. named: the ids in the request's body, which it has not created. spent: what it has cost so far."""

    def __init__(
        self, exchange: ExchangeState, about: ObjectPath, named: Collection[str], another_page: AnotherPage
    ) -> None:
        self.spent = exchange.spent
        self._exchange = exchange
        self._about = about
        self._named = named
        self._another_page = another_page
        self._creates = exchange.context.method in _CREATING
        self._recorded: set[str] = set()
        self._usage = NOTHING
        self._follows = False

    async def run(self, answer: PassedStream, *, is_below_own: bool) -> Complete:
        """Pass it on up to its last piece; returns what sends that. Raises UpstreamError, UpstreamTimeout.

        is_below_own: the path names an object of the caller's, so that a list there is of the caller's.
        """
        exchange = self._exchange
        method, found = exchange.context.method, _TYPE.search(answer.header_lines)
        type_ = b"" if found is None else found[1].lower()
        if 200 <= answer.status < 300:
            await self._note_location(answer)
            if method == "DELETE" and self._about.deletes is not None:
                await exchange.deps.ownership.forget(self._about.deletes)
        is_list = method == "GET" and not is_below_own and not exchange.deps.ownership.is_shared(self._about.kind)
        tells = self._creates or is_list or bool(created_beside(self._about)) or await self._asks_for_job()
        has_told = 200 <= answer.status < 300 and answer.status != 204
        is_json = type_ == b"application/json" or type_.endswith(b"+json")
        if has_told and tells and type_ in _UNSAID:
            # Some do not say that it is JSON.
            is_json = (await answer.peek()).lstrip().startswith((b"{", b"["))
        # A part of a list can be looked through by nobody.
        is_whole = answer.status != 206
        if has_told and is_json and tells and is_whole:
            return await self._hold(answer, is_list=is_list)
        if has_told and is_list and (self._about.is_known or (is_json and not is_whole)):
            raise UpstreamError("The model provider gave a list that cannot be looked through.")
        return await self._stream(answer, EventBuffer() if type_ == b"text/event-stream" else None)

    # ---------------------------------------------------------------------------------------------------- whole JSON

    async def _hold(self, answer: PassedStream, *, is_list: bool) -> Complete:
        begun, ended = await self._read(answer)
        if not ended:
            if is_list:
                raise UpstreamError("The list is too large to be looked through. Ask for fewer objects, with `limit`.")
            if self._creates and (id_ := first_id(begun)) is not None:
                await self._record((Created(id_, lifetime(self._about.kind)),))
            return await self._stream(answer, None, begun)
        if is_list:
            begun = await self._listed(begun)
        elif begun:
            await self._note(begun)
        client, context = self._exchange.client, self._exchange.context
        context.status = answer.status
        return partial(client.answer, answer.status, answer.header_lines + context.trace_lines(monotonic()), begun)

    async def _read(self, answer: PassedStream) -> tuple[bytes, bool]:
        """The answer, or so much of it that it is too large to be held; and whether that is all."""
        pieces, size, room = [], 0, room_of(self._exchange)
        while (data := await answer.read()) is not None:
            pieces.append(data)
            size += len(data)
            if size > LARGE_EVENT_BYTES:
                await room(len(data))
            if size > MOST_HELD_BYTES:
                return b"".join(pieces), False
        return answer.redactor.plain(b"".join(pieces)), True

    async def _note(self, body: bytes) -> None:
        """Record what an answer has created, and note what it has cost, or a job: what goes on after it."""
        told = await self._aside(body, parse, body)
        if self._about.job_kind:
            await self._note_job(body)
        if self._creates and self._about.bills_usage:
            self._bill(usage_in(told))
        await self._record(created_in(self._about, told, creates=self._creates))

    async def _asks_for_job(self) -> bool:
        """Whether the answer may tell of the end of a job that is followed."""
        exchange, about = self._exchange, self._about
        if not about.job_kind or not about.ids:
            return False
        return await exchange.deps.follower.is_followed(exchange.reservation.user, about.ids[-1].id)

    async def _note_job(self, body: bytes) -> None:
        """A job that has begun is followed from now on; one that has ended is billed before its client hears of it."""
        exchange = self._exchange
        if self._about.begins_job and self._creates:
            self._follows = await follow_passed(exchange, self._about.job_kind, body)
            return
        page = None if self._about.ids else await self._aside(body, page_of, body)
        with contextlib.suppress(RedisUnavailable):
            for told in [body] if page is None else [bytes(item) for _, item in page.items]:
                await exchange.deps.follower.saw(exchange.reservation.user, self._about.job_kind, told)

    async def _note_job_in(self, event: bytes) -> None:
        """A stream that has begun a job may tell its end as well, or a stream that goes on with one."""
        exchange, about = self._exchange, self._about
        if about.begins_job and not self._follows:
            self._follows = await follow_passed(exchange, about.job_kind, event)
            if self._follows:
                exchange.client.watch(exchange.deps.tasks)
            return
        with contextlib.suppress(RedisUnavailable):
            await exchange.deps.follower.saw(exchange.reservation.user, about.job_kind, event)

    async def _record(self, created: Collection[Created]) -> None:
        exchange = self._exchange
        user = exchange.reservation.user
        new = [each for each in created if each.id not in self._recorded and each.id not in self._named]
        for seconds in {each.seconds for each in new}:
            ids = [each.id for each in new if each.seconds == seconds]
            await exchange.deps.ownership.record(user, ids, seconds, exchange.place)
        if len(self._recorded) < MOST_PAGES * _PAGE_ITEMS:
            self._recorded.update(each.id for each in new)

    async def _note_location(self, answer: PassedStream) -> None:
        """Record an object that an answer tells of by its place alone, such as a call of realtime."""
        location = dict(passing.pairs_of(answer.header_lines)).get(b"location", b"").decode("latin-1")
        path = location.partition("?")[0].rstrip("/")
        if not self._creates or not path.startswith("/v1/"):
            return
        about = object_path_of(path.split("/")[2:])
        if about is not None and about.ids and about.ids[-1].id not in {each.id for each in self._about.ids}:
            await self._record((Created(about.ids[-1].id, lifetime(about.kind)),))

    def _bill(self, usage: Usage) -> None:
        self._usage = self._usage.merged(usage)
        told = self._usage
        if told != NOTHING:
            cost = Cost(1, told.prompt_tokens, told.output_tokens)
            self.spent = Spent(cost, "provider", told)

    # --------------------------------------------------------------------------------------------------------- lists

    async def _listed(self, body: bytes) -> bytes:
        """A list with the caller's objects alone: where a page has none of them, of the next page that has."""
        query = self._exchange.client.query
        wanted, ids = _limit_in(query), list[str]()
        for number in range(MOST_PAGES):
            if number:
                body = await self._next_page(_query_after(query, ids))
            page = await self._aside(body, page_of, body)
            if page is None:
                if self._about.is_known:
                    raise UpstreamError("The model provider gave a list that cannot be read.")
                return body
            ids = page.ids()
            if len(ids) > MOST_ITEMS:
                raise UpstreamError("The list is too large to be looked through. Ask for fewer objects, with `limit`.")
            has_fewer = await self._keep_visible(page, ids)
            if page.items or not page.has_more or not ids:
                if number:
                    page.first(wanted)
                if number or has_fewer:
                    body = await self._aside(body, page.encoded)
                await self._note_listed(body)
                return body
        raise ServiceUnavailable(
            "There are too many objects of others to look through. Ask for the list with other filters.",
            headers=((b"x-should-retry", b"false"),),
        )

    async def _aside(self, body: bytes, work: Callable[..., T], *args: Any) -> T:
        """Do something with an answer: beside the event loop if it is large."""
        return work(*args) if len(body) <= LARGE_EVENT_BYTES else await self._exchange.deps.beside(work, *args)

    async def _keep_visible(self, page: Page, ids: list[str]) -> bool:
        exchange = self._exchange
        only_own = self._about.is_known
        visible = await exchange.deps.ownership.visible(exchange.reservation.user, ids, only_own=only_own)
        return page.only(visible, nameless=not only_own)

    async def _note_listed(self, body: bytes) -> None:
        """One's own objects may have made others since they were last seen, such as a batch its output."""
        if created_beside(self._about) or self._about.job_kind:
            await self._note(body)

    async def _next_page(self, query: bytes) -> bytes:
        if (claim := self._exchange.answer_claim) is not None:
            claim.took(-claim.bytes)
        answer = await self._another_page(query)
        body, ended = await self._read(answer)
        if answer.status != 200 or not ended:
            answer.close()
            raise UpstreamError("The model provider gave a list that cannot be read.")
        return body

    # ------------------------------------------------------------------------------------------------------- streams

    async def _stream(self, answer: PassedStream, events: EventBuffer | None, begun: bytes = b"") -> Complete:
        """Pass on all but the last piece, as it comes. events: for an answer that is a stream of them."""
        exchange, length = self._exchange, None if events is not None else answer.length
        redactor = StreamRedactor(answer.redactor, keeps_length=length is not None)
        client, context = exchange.client, exchange.context
        context.status = answer.status
        header_lines = answer.header_lines + context.trace_lines(monotonic())
        if answer.status in {204, 304}:
            answer.close()
            return partial(client.answer, answer.status, header_lines, b"")
        if events is not None:
            header_lines += passing.STREAM
        await client.start(answer.status, header_lines, length)
        context.streamed = events is not None
        last = redactor.feed(begun)
        try:
            while (data := await answer.read()) is not None:
                piece = redactor.feed(data)
                if events is not None:
                    piece = await self._seen(events.feed(piece))
                if piece:
                    if last:
                        await client.write(last)
                    last = piece
        except AppError:
            if events is not None and last:
                await client.write(last)
            raise
        rest = redactor.rest()
        if events is not None:
            rest = await self._seen(events.feed(rest) + events.rest())
        return partial(client.end, last + rest)

    async def _seen(self, block: bytes) -> bytes:
        """Note what whole events tell, before they leave."""
        usage, created = await self._aside(block, told_in_events, self._about, block)
        if self._creates and self._about.job_kind:
            for event in filter(None, map(data_of, split_events(block))):
                await self._note_job_in(event)
        if self._creates and self._about.bills_usage and not self._follows:
            self._bill(usage)
        if self._creates or created_beside(self._about):
            await self._record(created)
        return block


def _limit_in(query: bytes) -> int:
    """How many items a page may have."""
    told = dict(parse_qsl(query.decode("latin-1"))).get("limit", "")
    return max(1, int(told)) if told.isascii() and told.isdigit() and len(told) < 6 else _USUAL_ITEMS


def _query_after(query: bytes, ids: list[str]) -> bytes:
    """The query for the page behind one with these ids, in the direction that the query has."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    names = [name for name, _ in pairs]
    suffix = "_id" if "after_id" in names or "before_id" in names else ""
    back = f"before{suffix}" in names and f"after{suffix}" not in names
    moved = {f"before{suffix}", f"after{suffix}", "limit"}
    kept = [pair for pair in pairs if pair[0] not in moved]
    limit = max(_limit_in(query), _PAGE_ITEMS)
    place = (f"before{suffix}", ids[0]) if back else (f"after{suffix}", ids[-1])
    return urlencode([*kept, ("limit", str(limit)), place], encoding="latin-1").encode()
