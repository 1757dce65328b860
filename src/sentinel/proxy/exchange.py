"""One request, from its first byte to its usage record.

    identify -> parse -> count -> reserve -> forward -> relay -> settle

Read `Exchange.run` first. Its phases are in receive.py (parse and count), admission.py (reserve), forwarding.py, and
whole.py, streaming.py or binary.py (relay); settle is below. What differs between formats is the endpoint's affair;
what was reserved, spent, and how it ended is decided in reservation.py, billing.py and outcome.py.

Settle runs once for whatever was reserved: after success, a refusal upstream, a broken stream, a client that left, and
at shutdown. A phase returns how the answer is completed, so that usage is durable before its last byte leaves.
"""

from __future__ import annotations

import asyncio

import structlog

from sentinel.clock import monotonic
from sentinel.error import AppError, InternalError, RequestTimeout, RequestTooLarge, ServiceUnavailable, headers_of
from sentinel.limits.policy import Cost
from sentinel.middleware import auth
from sentinel.proxy import billing, outcome, reservation
from sentinel.proxy import headers as passing
from sentinel.proxy.admission import reserve
from sentinel.proxy.client import ClientGone
from sentinel.proxy.forwarding import forward
from sentinel.proxy.objects import check_references, record_created
from sentinel.proxy.provider import ProviderAnswer
from sentinel.proxy.receive import parse, parse_large, receive
from sentinel.proxy.state import ExchangeState
from sentinel.proxy.streaming import relay_stream, unseen
from sentinel.proxy.tiers import choose
from sentinel.proxy.whole import relay_whole
from sentinel.tokens.counter import is_large
from sentinel.tokens.encoding import is_exact

log = structlog.get_logger()


class Exchange(ExchangeState):
    """One request of one caller."""

    __slots__ = ()

    async def run(self) -> None:
        """Take the request through its phases. Never raises."""
        deps, client, context = self.deps, self.client, self.context
        try:
            # Nothing is read before we know who sends it: a stranger costs us no memory.
            user = auth.remembered(client.headers, deps.cache)
            if user is None:
                user = await auth.identify(client.headers, deps.cache, context.client)
            context.user, context.identified = user, monotonic()
            small = client.take_small_body(deps.max_body_bytes)
            self.body = await receive(self) if small is None else small
            # What is wrong with a request has cost nothing so far; a reservation must know the input.
            request = self.request = await parse_large(self) if is_large(len(self.body)) else parse(self)
            if self.references or self.endpoint.chooses_model:
                await self._resolve()
            bound = self.bound = self.endpoint.bound(request)
            counted = 0 if self.endpoint.is_free else context.counted_input
            self.reservation = reservation.of(context.id, user, request.model, counted, bound, deps.estimator)
            self.verdict = await reserve(self, self.reservation)
            try:
                answer = await forward(self)
                relay = relay_whole(self, answer) if isinstance(answer, ProviderAnswer) else relay_stream(self, answer)
                complete = await relay
            except asyncio.CancelledError:
                self._abandon()
                raise
            finally:
                spent = self._end()
                # Durable when it returns. If the client leaves meanwhile, it goes on by itself.
                await self._settle(spent.cost, context.cost_micro_usd or 0)
            if self.created:
                await self._record_created()
            if (rest := complete()) is not None:
                await rest
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (nobody above would answer)
            await self._ended_by(error)
        finally:
            self._release()
            deps.on_end(context)

    async def _ended_by(self, error: BaseException) -> None:
        """Whatever was raised ends here, with an answer for a client that is still there."""
        context = self.context
        match error:
            case AppError():
                await self._fail(error)
            case ClientGone():
                # protocol.py has noted what was wrong with a body that it has refused.
                context.outcome = "client_gone" if context.error_code is None else "refused"
            case asyncio.CancelledError():
                await self._cancelled()
            case _:
                log.error("request failed", request_id=context.id, exc_info=error)
                await self._fail(InternalError("The server had an error while processing your request."))

    async def _resolve(self) -> None:
        """A tier becomes a model; what is named must be the caller's.

        Raises InvalidType, ModelNotAllowed, NotFound, ZionUnavailable.
        """
        if self.endpoint.chooses_model:
            await choose(self)
        await check_references(self)

    async def _record_created(self) -> None:
        """What the answer has made is written down before the last of it leaves."""
        await record_created(self)

    def _abandon(self) -> None:
        """What was sent on for a client that left is charged with its input, unless it is free, or was refused."""
        is_sent = self.upstream is not None and self.upstream.sent
        has_begun = self.relay is not None or self.spent is not billing.SPENT_NOTHING
        costs = not self.endpoint.is_free and not self.is_refused
        if self.client.gone and is_sent and not has_begun and costs:
            self.spent = billing.abandoned(self.context.counted_input, unseen(self))

    def _end(self) -> billing.Spent:
        """What the exchange has cost; its reservation is about to be settled."""
        context, spent = self.context, self.spent
        self.deps.leases.release(self.lease)
        if self.watched is not None and not self.client.started:
            # No comment must commit it to a stream now: how it ends is decided.
            self._unwatch()
        if context.forwarded and not context.first_byte:
            context.provider_seconds = monotonic() - context.forwarded
        source = spent.source
        if source == "provider" and not self.references:
            # What references bring was not counted.
            self.deps.input_ratio.note(context.model, self.counted, spent.cost.input)
        elif source == "count" and not is_exact(context.model):
            source = "estimate"
        cost_micro_usd = spent.micro_usd(self.prices, self.priced_model, self.verdict.now_ms)
        context.has_spent(spent.cost, source, spent.usage.cached_tokens, spent.usage.reasoning_tokens, cost_micro_usd)
        return spent

    async def _settle(self, cost: Cost, cost_micro_usd: int) -> None:
        """Replace the reservation by what was spent; that of a job stays until the job ends."""
        if self.job is None:
            await self.deps.tracker.settle(self.reservation, cost, self.verdict.now_ms, cost_micro_usd=cost_micro_usd)
        elif self.job_is_over:
            await self.deps.follower.settle(self.job, cost, cost_micro_usd)

    def _unwatch(self) -> None:
        """No comments keep the client waiting from now on."""
        assert self.watched is not None
        self.deps.keepalive.release(self.watched)
        # It knows this exchange: what has ended goes at once, and not when the garbage collector looks.
        self.watched = None

    async def _fail(self, error: AppError) -> None:
        """Tell the client: as an answer, or as the last event of a stream that has begun.

        A whole answer that has begun is left unfinished, which ends the connection: nobody shall take it for one.
        """
        context, client = self.context, self.client
        client.unwatch()
        context.error_code = error.code
        # The head of a stream may have been sent before the provider's.
        has_begun = client.started and (self.relay is not None or not context.streamed)
        context.outcome = outcome.of_error(error, context.outcome, has_begun=has_begun)
        if client.started:
            if context.streamed:
                meter = None if self.relay is None else self.relay.meter
                await client.end(self.endpoint.render_event(error, meter, context.id))
            return
        context.status = error.status
        send = client.answer_early if isinstance(error, RequestTooLarge | RequestTimeout) else client.answer
        header_lines = passing.lines_of(headers_of(error)) + context.trace_lines(monotonic())
        await send(error.status, header_lines, self.endpoint.render(error, context.id))

    async def _cancelled(self) -> None:
        """A client that left needs no answer; one that is still there at shutdown gets an error.

        The cancellation ends here: its task has nothing else to do.
        """
        if self.client.gone:
            self.context.outcome = "client_gone"
            return
        self.context.outcome = "shutdown"
        await self._fail(ServiceUnavailable("The server is shutting down.", retry_after_seconds=1))

    def _release(self) -> None:
        """Hold nothing any more."""
        self.client.unwatch()
        self.goes_to(None)
        if self.watched is not None:
            self._unwatch()
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        if self.answer_claim is not None:
            self.answer_claim.release()
