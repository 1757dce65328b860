"""GET /v1/responses as a WebSocket: each message of the client is an exchange as any other, one after the other.

The provider's socket is opened before the client's is accepted, with our key. Between two exchanges what comes of the
provider passes on, as far as it is no part of an answer, and so does how it closes. Only one response may be in flight,
as at OpenAI: a second one is refused, and the first goes on.

Where there are several providers, each message goes to one that serves its model: to that of the open socket if that
does, else that socket is closed, and one to the other provider opened. What is not stored cannot be gone on from then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import structlog

from sentinel.clock import monotonic
from sentinel.endpoints.response_create import RESPONSE_CREATE, ResponseCreate, error_message, kind_of
from sentinel.error import ResponseInProgress, UpgradeRequired
from sentinel.memory_budget import Claim
from sentinel.proxy.billing import SPENT_NOTHING, Spent
from sentinel.proxy.exchange import Exchange
from sentinel.proxy.frames import FrameClient, FrameProvider
from sentinel.proxy.logging import RequestContext, new_request_id
from sentinel.proxy.provider import Socket, SocketRefused
from sentinel.proxy.registry import Registry, Target
from sentinel.proxy.state import Dependencies
from sentinel.tokens.usage import NOTHING

log = structlog.get_logger()

GOING_AWAY = 1001
NOT_SPOKEN = (200, 400, 404, 405, 426, 501)
"""How a provider answers a handshake that has responses, and no WebSockets."""
_ANSWER = "response."
"""How the types of all events of an answer begin."""


def _not_served(model: str) -> UpgradeRequired:
    """The error of a response that clients get over HTTP: Codex goes on there by itself."""
    name = f"The model '{model[:96]}'" if model else "The model"
    return UpgradeRequired(f"{name} is not served over WebSockets. Use POST /v1/responses.", param="model")


class _OverSockets(Registry):
    """The registry of one client's socket. opened: the target that it is at; over: a target, over a socket."""

    def __init__(self, of: Registry, opened: Callable[[], Target], over: Callable[[Target], Target]) -> None:
        super().__init__(*of.providers, served=of.served, home=of.home if of.is_many else "")
        self.on_opened = of.on_opened
        # Also where nothing is to be chosen, it is not the target itself, but that over the socket.
        self.plain = None
        self._opened = opened
        self._over = over

    def targets(
        self, format_name: str, model: str, place: str = "", *, may_translate: bool = False
    ) -> Sequence[Target]:
        """As Registry's, never translated: that which is open, else the first that has WebSockets.

        Raises ModelNotFound, UpgradeRequired for a model that is to be had over HTTP alone.
        """
        opened = self._opened()
        asked = model or place
        found = super().targets(format_name, model, place, may_translate=may_translate) if asked else [opened]
        having = [each for each in found if each.sockets is not None and each.translator is None]
        if not having:
            raise _not_served(model)
        return (self._over(next((each for each in having if each.name == opened.name), having[0])),)


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
            if self._name not in {target.name for target in served if target.translator is None}:
                raise UpgradeRequired(f"The model '{model[:96]}' is not served over this WebSocket. Use POST.")
        return self.providers


class ResponsesSession:
    """One client's socket. headers: of its handshake; claim: counts what is held of its messages.

    open_: opens another socket to a provider. template: what each request's line in the log has of the handshake.
    """

    def __init__(
        self,
        deps: Dependencies,
        target: Target,
        headers: Mapping[bytes, bytes],
        template: RequestContext,
        claim: Claim,
        open_: Callable[[Target], Awaitable[Socket]],
    ) -> None:
        self._deps = replace(deps, registry=_OverSockets(deps.registry, lambda: self._target, self._over))
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
        self._provider = self._at(self._target, upstream)
        socket.on_news = upstream.on_news = self._news.set
        try:
            while not socket.ended:
                self._news.clear()
                if self._is_idle() and self._is_over(socket, self._provider):
                    break
                await self._take(socket)
                await self._news.wait()
        except asyncio.CancelledError:
            if self._task is not None:
                self._task.cancel()
            raise
        finally:
            await self._finish(socket)

    def _at(self, target: Target, socket: Socket | None) -> FrameProvider:
        """The provider of what is said over a socket to this target; None: it is opened when something is said."""
        assert target.sockets is not None
        idle_seconds = self._deps.socket_idle_seconds
        return FrameProvider(
            socket, partial(self._opened, target), target.sockets.redactor, idle_seconds, target.socket_key
        )

    async def _opened(self, target: Target) -> Socket:
        """Another socket. Raises SocketRefused, UpgradeRequired where the provider has none, UpstreamError, ..."""
        try:
            return await self._open(target)
        except SocketRefused as refused:
            if refused.answer.status in NOT_SPOKEN:
                raise _not_served("") from refused
            raise

    def _over(self, target: Target) -> Target:
        """The same over the socket that is open, or over one to it in that one's place."""
        if target.name != self._target.name:
            self._provider.given_up()
            self._provider, self._target = self._at(target, None), target
        return replace(target, provider=self._provider)

    def _is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def _is_over(self, socket: Socket, provider: FrameProvider) -> bool:
        """Between two exchanges: pass on what the provider says by itself. Whether the client's socket was closed."""
        if self._is_stopping:
            socket.close(GOING_AWAY, "The server is shutting down.")
            return True
        upstream, redactor = provider.socket, provider.redactor
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
        if template.trace is not None:
            context.trace = template.trace.below()
        client = self._client = FrameClient(socket, self._headers, body, self._claim)
        self._task = client.task = self._deps.tasks.start(self._exchange(client, context), "response")

    async def _exchange(self, client: FrameClient, context: RequestContext) -> None:
        try:
            await FrameExchange(self._deps, RESPONSE_CREATE, client, context).run()
        finally:
            client.holds(0)
            client.task = None
            self._news.set()

    async def _finish(self, socket: Socket) -> None:
        """End what is in flight, and close both sides."""
        if socket.ended and self._client is not None:
            self._client.leave()
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        await self._provider.close()
        socket.close(GOING_AWAY, "The server is shutting down.")
