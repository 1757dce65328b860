"""GET /v1/realtime: the events of both sides pass as they are; responses are admitted, metered and billed one by one.

The client's events go to the provider in their order; one that asks for a response waits there until it is admitted,
and tells what is left where that is less than it asks for. A response that begins by itself, since the user has stopped
speaking, is admitted when it is seen; where it is refused, or comes to a limit, it is cancelled, and the session ends.
Usage is durable before the event that tells it leaves, and so is that of a transcription, which costs no request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

from sentinel.clock import monotonic, now_ms
from sentinel.endpoints import realtime
from sentinel.endpoints.named_models import models_in
from sentinel.endpoints.realtime import ClientEvent, Conversation, ServerEvent, SpeechMeter
from sentinel.error import (
    AccessDenied,
    AppError,
    InsufficientQuota,
    InvalidApiKey,
    InvalidJson,
    ResponseInProgress,
    UpstreamTimeout,
)
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import Cost, Reservation
from sentinel.middleware import model_check, rate_limiter
from sentinel.proxy.billing import SPENT_NOTHING, Spent
from sentinel.proxy.logging import RequestContext, new_request_id
from sentinel.proxy.outcome import Outcome
from sentinel.proxy.provider import Message, Socket
from sentinel.proxy.realtime_response import FORMAT, ModelPrices, RealtimeResponse
from sentinel.proxy.registry import Target
from sentinel.proxy.reservation import least
from sentinel.proxy.state import Dependencies
from sentinel.tasks import pause

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")

LARGE_BYTES = 8 * 1024
"""Of an event: to count a text of this length takes 3 ms at worst."""
MOST_OVER = 64
"""Responses that are done and remembered, so that none is billed twice."""
MOST_AHEAD = 16
"""Responses that a client may ask for before the first of them begins."""
LOOK_SECONDS = 5.0
"""How often it is looked whether the provider is silent: an hour's session costs nothing by it."""
GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1001, 1008, 1011, 1013


class _Ended(Exception):
    """The session ends with this error. response_id: of the response that is cancelled."""

    def __init__(self, error: AppError, response_id: str = "") -> None:
        super().__init__(error.code)
        self.error = error
        self.response_id = response_id
        self.outcome: Outcome = "broken" if error.side == "provider" else "limit"


class RealtimeSession:
    """One session of one user. template: what each response's line in the log has of the handshake.

    model: as the client has named it, "" where it has not; target: whose socket it is, which may have another name for
    it. judges_told: nobody has named it, so that what is told by the provider must be of the caller's plan. identify:
    says who the caller is by now, None where they are who they were: raises as auth.identify does.
    """

    def __init__(
        self,
        deps: Dependencies,
        user: AuthenticatedUser,
        template: RequestContext,
        model: str,
        target: Target,
        identify: Callable[[], Awaitable[AuthenticatedUser | None]],
        *,
        judges_told: bool,
    ) -> None:
        self._deps = deps
        self._user = user
        self._model = model
        self._judges_told = judges_told
        self._identify = identify
        self._template = template
        assert target.sockets is not None
        self._redactor = target.sockets.redactor
        self._target = target
        self._named = model
        self._there = (None if target.route is None else target.route.model) or model
        self._said = Conversation(model)
        self._asked: deque[RealtimeResponse] = deque()
        self._open: dict[str, RealtimeResponse] = {}
        self._over: deque[str] = deque(maxlen=MOST_OVER)
        self._stopping, self._fewer = asyncio.Event(), asyncio.Event()
        self._ended: _Ended | None = None
        self._heard = monotonic()

    def stop(self) -> None:
        """The server shuts down: the session ends once no response is being made."""
        self._stopping.set()

    async def run(self, socket: Socket, upstream: Socket) -> None:
        """Relay until one of the two sides leaves. What was begun is settled, also when cancelled."""
        pumps = [
            self._deps.tasks.start(self._until_ended(work), f"realtime: {name}")
            for name, work in {
                "to the provider": self._outward(socket, upstream),
                "to the client": self._inward(socket, upstream),
                "until shutdown": self._until_stopped(),
                "until silence": self._until_silent(),
            }.items()
        ]
        outcome: Outcome = "shutdown"
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            outcome = "client_gone" if socket.ended else "broken" if upstream.ended else "shutdown"
        finally:
            for pump in pumps:
                pump.cancel()
            results = await asyncio.gather(*pumps, return_exceptions=True)
            failed = any(isinstance(result, Exception) for result in results)
            begun = await self._settle_all(self._ended.outcome if self._ended else "error" if failed else outcome)
            if self._ended is not None:
                self._end(self._ended, begun, socket, upstream)
            else:
                self._close(outcome, socket, upstream, failed=failed)

    async def _until_ended(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except _Ended as ended:
            self._ended = self._ended or ended

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        while self._open or self._asked:
            self._fewer.clear()
            await self._fewer.wait()

    async def _until_silent(self) -> None:
        """A provider that says nothing in the middle of a response would hold what it reserved for ever.

        Raises _Ended.
        """
        idle_seconds = self._deps.socket_idle_seconds
        while True:
            await pause(min(LOOK_SECONDS, idle_seconds / 4))
            if (self._open or self._asked) and monotonic() - self._heard > idle_seconds:
                raise _Ended(UpstreamTimeout("The model provider did not answer in time."), next(iter(self._open), ""))

    async def _settle_all(self, outcome: Outcome) -> list[RealtimeResponse]:
        """Bill what was delivered of each response that has not ended; returns those that had begun."""
        begun = list(self._open.values())
        left = [*self._asked, *begun]
        self._asked.clear()
        self._open.clear()
        await asyncio.gather(*(response.cut(outcome) for response in left))
        return begun

    def _end(self, ended: _Ended, begun: list[RealtimeResponse], socket: Socket, upstream: Socket) -> None:
        """Tell both sides why it ends, and close. begun: the responses of which the client has not heard the end."""
        if ended.response_id:
            upstream.send(realtime.cancel_event(ended.response_id))
        upstream.close()
        for response in begun if ended.outcome == "limit" else ():
            event = realtime.incomplete_event(response.told or {}, response.spent.cost, _event_id())
            socket.send(self._redactor.plain(event))
        socket.send(realtime.error_event(ended.error, None, _event_id()))
        socket.close(POLICY_VIOLATION if ended.error.side == "client" else TRY_AGAIN_LATER, ended.error.code)

    def _close(self, outcome: Outcome, socket: Socket, upstream: Socket, *, failed: bool) -> None:
        """Close either side as the other one has."""
        if failed:
            socket.close(INTERNAL_ERROR)
        elif outcome == "client_gone":
            upstream.close(socket.close_code, socket.close_reason)
        elif outcome == "broken":
            reason = self._redactor.plain(upstream.close_reason.encode()).decode(errors="replace")
            socket.close(upstream.close_code, reason)
        else:
            socket.close(GOING_AWAY, "The server is shutting down.")
        upstream.close()

    # ------------------------------------------------------------------------------------------------ to the provider

    async def _outward(self, socket: Socket, upstream: Socket) -> None:
        async for message in _messages(socket):
            event = await self._read(realtime.client_event, message.data, message.data)
            try:
                await self._judge(message.data)
                asked = await self._ask(event, message.data) if event.type == realtime.CREATE else message.data
            except AppError as error:
                await socket.deliver(Message(realtime.error_event(error, event.event_id, _event_id())))
                continue
            if event.type == realtime.UPDATE:
                session = await self._read(realtime.object_of, event.session, message.data)
                self._said.note_asked(session)
                self._model = named if isinstance(named := session.get("model"), str) else self._model
                if self._there != self._named:
                    as_there = partial(realtime.renamed, before=self._named, after=self._there)
                    asked = await self._read(as_there, message.data, message.data)
            tokens = await self._read(self._said.item_tokens, event, message.data)
            self._said.note_said(event, tokens)
            await upstream.deliver(Message(asked, message.is_text))

    async def _judge(self, message: bytes) -> None:
        """The objects that an event names must be the caller's, its models of their plan.

        Raises NotFound, ModelNotAllowed, InvalidJson, RedisUnavailable.
        """
        if self._user.allowed_models is not None:
            model_check.check(self._user, await self._read(models_in, message, message))
        try:
            references = await self._read(realtime.IDS.found_in, message, message)
        except ValueError as error:
            raise InvalidJson("We could not parse the JSON of your event.") from error
        if references:
            await self._deps.ownership.check(self._user.id, references)

    async def _look_who(self) -> None:
        """See who the caller is by now. Raises as auth.identify does, ModelNotAllowed where their plan has changed."""
        self._user = await self._identify() or self._user
        if self._model and not self._user.may_use(self._model):
            raise model_check.not_allowed(self._model)

    async def _read(self, read: Callable[[T], R], of: T, message: bytes) -> R:
        """What is read of an event, beside the event loop where its message is large."""
        return read(of) if len(message) <= LARGE_BYTES else await self._deps.beside(read, of)

    async def _ask(self, event: ClientEvent, message: bytes) -> bytes:
        """Admit a response that the client asks for; returns what the provider is told.

        Raises why it is not admitted: an AppError, or _Ended where the subscription is used up.
        """
        if len(self._asked) >= MOST_AHEAD:
            raise ResponseInProgress("Too many responses were asked for on this connection.")
        wanted = await self._read(realtime.object_of, event.response, message)
        added = await self._read(self._said.added_tokens, wanted, message)
        response = self._response(wanted, added, event.event_id)
        try:
            await response.admit(self._look_who)
        except (AccessDenied, InsufficientQuota, InvalidApiKey) as error:
            raise _Ended(error) from error
        self._asked.append(response)
        self._heard = monotonic()
        most = response.output_max
        return message if most is None else await self._read(partial(realtime.lowered, most=most), message, message)

    def _response(
        self, wanted: dict[str, object], added_tokens: int = 0, event_id: str | None = None
    ) -> RealtimeResponse:
        template, said = self._template, self._said
        context = RequestContext(
            new_request_id(), template.route, monotonic(), template.client, template.agent, template.method
        )
        context.model = said.model
        if template.trace is not None:
            context.trace = template.trace.below()
        bound = realtime.bound_of(wanted, said.client_max)
        given = said.input_with(added_tokens)
        return RealtimeResponse(self._deps, self._user, context, bound, given, self._priced(said.model), event_id)

    def _priced(self, model: str) -> ModelPrices:
        """What a model costs: that of the session where it is served, others as the file says."""
        if model == self._named and model:
            return ModelPrices(self._target.prices, self._there)
        return ModelPrices(self._deps.registry.prices(FORMAT, model), model)

    # -------------------------------------------------------------------------------------------------- to the client

    async def _inward(self, socket: Socket, upstream: Socket) -> None:
        redact = self._redactor.plain
        async for message in _messages(upstream):
            event = await self._read(realtime.server_event, message.data, message.data)
            await self._note(event, message.data)
            await socket.deliver(Message(redact(message.data), message.is_text))
            self._heard = monotonic()
            if event.type == realtime.DONE:
                # Not before the client has it: a shutdown waits for no other event.
                self._open = {id_: response for id_, response in self._open.items() if not response.is_settled}
                self._fewer.set()

    async def _note(self, event: ServerEvent, message: bytes) -> None:
        """Do what must be done before the client gets this event. Raises _Ended."""
        kind = event.type
        if realtime.is_piece(event):
            await self._pass_piece(event)
        elif kind == realtime.CREATED:
            await self._begin(await self._read(realtime.object_of, event.response, message))
        elif kind == realtime.DONE:
            await self._done(await self._read(realtime.object_of, event.response, message))
        elif kind == realtime.TRANSCRIBED:
            await self._transcribed(event)
        elif kind in ("session.created", "session.updated", "transcription_session.updated"):
            told = await self._read(realtime.object_of, event.session, message)
            session = await self._read(self._said.read_session, told, message)
            if self._named and session.model == self._there:
                # Books have the client's name of it.
                session = session._replace(model=self._named)
            self._judge_told(session.model)
            self._said.note_session(session, is_update=kind != "session.created")
        elif kind == "input_audio_buffer.committed":
            self._said.note_committed()
        elif kind == "error":
            await self._refused(realtime.object_of(event.error).get("event_id"))

    def _judge_told(self, model: str | None) -> None:
        """The model of the session, as the provider tells it, where it was named by nobody. Raises _Ended."""
        if model and self._judges_told and not self._model and not self._user.may_use(model):
            raise _Ended(model_check.not_allowed(model))

    async def _begin(self, told: dict[str, Any]) -> None:
        """A response begins: one that was admitted, or by itself."""
        id_ = realtime.id_of(told)
        if id_ in self._open:
            return
        if self._asked:
            response = self._asked.popleft()
        else:
            response = self._response({})
            try:
                await response.admit(self._look_who)
            except AppError as error:
                raise _Ended(error, id_) from error
        response.begin(SpeechMeter(self._said.model, self._said.out_bytes_per_token), told)
        self._open[id_] = response

    async def _pass_piece(self, event: ServerEvent) -> None:
        id_ = event.response_id or ""
        if id_ not in self._open:
            # A provider that does not tell when a response begins.
            await self._begin({"id": id_})
        try:
            fits = await self._open[id_].takes(event)
        except AppError as error:
            raise _Ended(error, id_) from error
        if not fits:
            raise _Ended(InsufficientQuota("You exceeded your current limit of output tokens."), id_)

    async def _done(self, told: dict[str, object]) -> None:
        id_, usage = realtime.id_of(told), realtime.usage_of(told)
        if id_ in self._over:
            return
        if id_ not in self._open:
            await self._begin(told)
        self._over.append(id_)
        if told.get("conversation_id", "") is not None:
            # Or else it was given something of its own, and has said nothing in the conversation.
            self._said.note_usage(usage)
        await self._open[id_].done(usage, told.get("status"))

    async def _refused(self, event_id: object) -> None:
        """The provider refuses an event: if that asked for a response, there will be none."""
        for response in self._asked:
            if response.event_id == event_id:
                self._asked.remove(response)
                await response.cut("upstream_error")
                self._fewer.set()
                return

    async def _transcribed(self, event: ServerEvent) -> None:
        """Bill a transcription, which costs tokens and no request, and look whether anything is left."""
        said, user, deps = self._said, self._user, self._deps
        usage = realtime.transcription_usage(event, said.transcriber, said.heard_tokens)
        cost = Cost(0, usage.prompt_tokens, usage.output_tokens)
        spent = Reservation(new_request_id(), user.id, user.email, said.transcriber, cost.input, cost.output)
        now, prices = now_ms(), deps.registry.prices(FORMAT, said.transcriber)
        cost_micro_usd = Spent(cost, usage=usage).micro_usd(prices, said.transcriber, now)
        await deps.tracker.settle(spent, cost, now, cost_micro_usd=cost_micro_usd or 0)
        try:
            await look_for_rest(deps, user)
        except AppError as error:
            if error.status != 429 or isinstance(error, InsufficientQuota):
                raise _Ended(error) from error


async def look_for_rest(deps: Dependencies, user: AuthenticatedUser) -> None:
    """Raises the refusal where the user has nothing left, AccessDenied, ZionUnavailable, RedisUnavailable."""
    smallest = least(new_request_id(), user)
    verdict = await rate_limiter.peek(smallest, deps.ledger, deps.cache, rate_limiter.ZION_SECONDS)
    if verdict is not None and verdict.admitted:
        await deps.tracker.settle(smallest, SPENT_NOTHING.cost, verdict.now_ms)
    elif verdict is not None:
        raise rate_limiter.refusal_of(verdict)


async def _messages(socket: Socket) -> AsyncIterator[Message]:
    """What comes, until it has ended."""
    news = asyncio.Event()
    socket.on_news = news.set
    while True:
        while (message := socket.take()) is not None:
            yield message
            # Thousands may have come at once.
            await pause(0)
        if socket.ended:
            return
        await news.wait()
        news.clear()


def _event_id() -> str:
    return new_request_id().replace("req_", "event_")
