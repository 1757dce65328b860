"""GET /v1/responses as a WebSocket: each message of the client is an exchange as any other, one after the other.

The provider's socket is opened before the client's is accepted, with our key, and before any model is named: what is
asked of a model that is served elsewhere is refused, and clients go on over HTTP. Between two exchanges what comes of
the provider passes on, as far as it is no part of an answer, and so does how it closes. Only one response may be in
flight, as at OpenAI: a second one is refused, and the first goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from sentinel.clock import monotonic
from sentinel.endpoints.response_create import RESPONSE_CREATE, ResponseCreate, error_message, kind_of
from sentinel.error import ResponseInProgress, UpgradeRequired
from sentinel.memory_budget import Claim
from sentinel.proxy.billing import SPENT_NOTHING, Spent
from sentinel.proxy.exchange import Exchange
from sentinel.proxy.frames import FrameClient, FrameProvider
from sentinel.proxy.logging import RequestContext, new_request_id
from sentinel.proxy.provider import Socket
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.registry import Registry, Target
from sentinel.proxy.state import Dependencies
from sentinel.tokens.usage import NOTHING

log = structlog.get_logger()

GOING_AWAY = 1001
_ANSWER = "response."
"""How the types of all events of an answer begin."""


class FrameExchange(Exchange):
    """One message of a client, and its answer."""

    __slots__ = ()

    @property
    def _makes_ready(self) -> bool:
        return isinstance(self.request, ResponseCreate) and not self.request.generates

    def _end(self) -> Spent:
        """As of every exchange; to have made a model ready costs what its provider says, and else nothing."""
        relay = self.relay
        if (
            self._makes_ready
            and relay is not None
            and relay.ended
            and relay.meter.usage == NOTHING
            and relay.delivered() <= 0
        ):
            self.spent = SPENT_NOTHING
        return super()._end()

    async def _record_created(self) -> None:
        """As of every exchange; what a model was made ready with is given to whatever goes on from that."""
        await super()._record_created()
        if self._makes_ready:
            await self.deps.contexts.note(self.created[:1], self.context.counted_input)


class _OneSocket(Registry):
    """The provider of one socket, for the models that it serves."""

    def __init__(self, target: Target, registry: Registry) -> None:
        super().__init__(target, home=registry.home if registry.is_many else "")
        self._name, self._all = target.name, registry

    def targets(
        self, format_name: str, model: str, place: str = "", *, may_translate: bool = False
    ) -> Sequence[Target]:
        """As Registry's. Raises UpgradeRequired for a model that is elsewhere: nobody else may see what it is asked."""
        if model and self._all.is_many:
            served = self._all.targets(format_name, model, place, may_translate=may_translate)
            if not any(self._is_its(target, model) for target in served):
                raise UpgradeRequired(f"The model '{model[:96]}' is not served over this WebSocket. Use POST.")
        return self.providers

    def _is_its(self, target: Target, model: str) -> bool:
        """Whether a message may go there as it is; one that must be changed for it goes over HTTP."""
        is_renamed = target.route is not None and target.route.model not in (None, model)
        return target.name == self._name and target.translator is None and not is_renamed


class ResponsesSession:
    """One client's socket. headers: of its handshake; claim: counts what is held of its messages.

    open_: opens another socket to the provider. template: what each request's line in the log has of the handshake.
    """

    def __init__(
        self,
        deps: Dependencies,
        target: Target,
        headers: Mapping[bytes, bytes],
        template: RequestContext,
        claim: Claim,
        open_: Callable[[], Awaitable[Socket]],
    ) -> None:
        self._deps = deps
        self._target = target
        self._headers = headers
        self._template = template
        self._claim = claim
        self._open = open_
        self._news = asyncio.Event()
        self._is_stopping = False
        self._client: FrameClient | None = None
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """The server shuts down: the socket is closed once nothing is in flight."""
        self._is_stopping = True
        self._news.set()

    async def run(self, socket: Socket, upstream: Socket) -> None:
        """Serve the client until one of the two sides leaves. Settled is whatever was begun, also when cancelled."""
        assert self._target.sockets is not None
        redactor: Redactor = self._target.sockets.redactor
        provider = FrameProvider(upstream, self._open, redactor, self._deps.socket_idle_seconds)
        target = Target(self._target.name, provider, self._target.additions, prices=self._target.prices)
        self._deps = replace(self._deps, registry=_OneSocket(target, self._deps.registry))
        socket.on_news = upstream.on_news = self._news.set
        try:
            while not socket.ended:
                self._news.clear()
                if self._is_idle() and self._is_over(socket, provider, redactor):
                    break
                await self._take(socket)
                await self._news.wait()
        except asyncio.CancelledError:
            if self._task is not None:
                self._task.cancel()
            raise
        finally:
            await self._finish(socket, provider)

    def _is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def _is_over(self, socket: Socket, provider: FrameProvider, redactor: Redactor) -> bool:
        """Between two exchanges: pass on what the provider says by itself. Whether the client's socket was closed."""
        if self._is_stopping:
            socket.close(GOING_AWAY, "The server is shutting down.")
            return True
        upstream = provider.socket
        if upstream is None:
            return False
        upstream.on_news = self._news.set
        while not socket.is_full and (message := upstream.take()) is not None:
            kind = kind_of(message.data)
            # What is no answer may be of interest; an answer that nobody has asked for is for nobody.
            if kind is not None and not kind.startswith(_ANSWER):
                socket.send(redactor.every_spelling(message.data), is_text=message.is_text)
        if upstream.ended:
            socket.close(upstream.close_code, redactor.plain(upstream.close_reason.encode()).decode(errors="replace"))
        return upstream.ended

    async def _take(self, socket: Socket) -> None:
        """Begin with the next message. While the client does not read, it is not read either."""
        while not socket.is_full and not socket.ended:
            if self._client is not None and self._client.ended and not self._is_idle():
                # The client has its answer, and we are about to be done with it.
                return
            message = socket.take()
            if message is None:
                return
            if self._is_idle() and not self._is_stopping:
                self._begin(socket, message.data)
            else:
                socket.send(error_message(ResponseInProgress("A response is in progress on this connection.")))

    def _begin(self, socket: Socket, body: bytes) -> None:
        template = self._template
        context = RequestContext(
            new_request_id(), template.route, monotonic(), template.client, template.agent, template.method
        )
        client = self._client = FrameClient(socket, self._headers, body, self._claim)
        self._task = client.task = self._deps.tasks.start(self._exchange(client, context), "response")

    async def _exchange(self, client: FrameClient, context: RequestContext) -> None:
        try:
            await FrameExchange(self._deps, RESPONSE_CREATE, client, context).run()
        finally:
            client.holds(0)
            client.task = None
            self._news.set()

    async def _finish(self, socket: Socket, provider: FrameProvider) -> None:
        """End what is in flight, and close both sides."""
        if socket.ended and self._client is not None:
            self._client.leave()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        await provider.close()
        socket.close(GOING_AWAY, "The server is shutting down.")
