"""One response of a realtime session: admitted before it begins, metered as it is said, billed once when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from sentinel.clock import monotonic
from sentinel.endpoints.endpoint import OutputBound
from sentinel.endpoints.realtime import ServerEvent, SpeechMeter
from sentinel.error import AppError
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import Verdict
from sentinel.middleware import rate_limiter
from sentinel.middleware.lease_keeper import HeldLease
from sentinel.prices.catalog import Prices
from sentinel.proxy import billing, reservation
from sentinel.proxy.billing import SPENT_NOTHING, Spent
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.outcome import Outcome
from sentinel.proxy.relay import EXTENSION_TOKENS
from sentinel.proxy.state import Dependencies
from sentinel.tokens.usage import NOTHING, Usage

FORMAT = "realtime"
"""What a target must speak."""


class ModelPrices(NamedTuple):
    """Where it stands what a model costs, and by which name."""

    prices: Prices
    model: str


class RealtimeResponse:
    """One response. event_id: of the client's event that asks for it, None where it told none.

    input_tokens: at most so many it is given. priced: what its tokens cost. context: its line in the log. is_settled:
    it is over. told: how the provider has told that it begins, None before that. spent: what it was billed.
    """

    def __init__(
        self,
        deps: Dependencies,
        user: AuthenticatedUser,
        context: RequestContext,
        bound: OutputBound,
        input_tokens: int,
        priced: ModelPrices,
        event_id: str | None = None,
    ) -> None:
        self.event_id = event_id
        self.context = context
        self._deps = deps
        self._bound = bound
        self._input_tokens = input_tokens
        self._priced = priced
        self._reservation = reservation.of(context.id, user, context.model, input_tokens, bound, deps.estimator)
        self._verdict: Verdict | None = None
        self._lease: HeldLease | None = None
        self._meter: SpeechMeter | None = None
        self._capped: int | None = None
        self.is_settled = False
        self.told: dict[str, Any] | None = None
        self.spent = SPENT_NOTHING
        context.user, context.identified, context.streamed = user, context.started, True
        context.counted_input = input_tokens

    async def admit(self, identify: Callable[[], Awaitable[object]]) -> None:
        """Reserve for it, once the caller is identified.

        Raises the refusal, InvalidApiKey, AccessDenied, ZionUnavailable, RedisUnavailable; then its line is told.
        """
        deps, context = self._deps, self.context
        asked = monotonic()
        try:
            await identify()
            verdict = await rate_limiter.reserve(self._reservation, deps.ledger, deps.cache)
            context.verdict = verdict
            if not verdict.admitted:
                raise rate_limiter.refusal_of(verdict)
        except AppError as error:
            context.status, context.error_code, context.outcome = error.status, error.code, "refused"
            deps.on_end(context)
            raise
        except asyncio.CancelledError:
            # What was asked may yet be done.
            deps.tracker.withdraw(self._reservation)
            raise
        self._verdict = verdict
        self._lease = deps.leases.hold(self._reservation, verdict, asked)
        context.forwarded = monotonic()

    @property
    def output_max(self) -> int | None:
        """The most output tokens that the provider must be told; None where it need not."""
        assert self._verdict is not None
        return reservation.output_max(self._bound, self._reservation, self._verdict)

    def begin(self, meter: SpeechMeter, told: dict[str, Any]) -> None:
        """The provider makes it. told: what it says of it."""
        assert self._lease is not None
        self._meter, self.told = meter, told
        self._lease.delivered = self._delivered
        self.context.status, self.context.first_byte = 200, monotonic()

    def _delivered(self) -> int:
        """Output tokens delivered so far; -1 before anything was said."""
        if self._capped is not None:
            return self._capped
        count = 0 if self._meter is None else self._meter.count()
        return count or -1

    async def takes(self, event: ServerEvent) -> bool:
        """Note that the client is to get this piece; False where it exceeds what the response may say.

        Raises ServiceUnavailable, PlaceTaken.
        """
        meter, lease, verdict = self._meter, self._lease, self._verdict
        assert meter is not None
        assert lease is not None
        assert verdict is not None
        if monotonic() > lease.ends:
            # We were held up for longer than a lease.
            await self._deps.leases.extend(lease, 0, self._delivered())
        if not verdict.output_is_limited:
            meter.feed(event)
            return True
        before = self._capped = self._delivered()
        meter.feed(event)
        if meter.upper_bound > lease.output and (after := meter.count()) > lease.output:
            await self._deps.leases.extend(lease, max(EXTENSION_TOKENS, after - lease.output), max(0, before))
            if after > lease.output:
                return False
        self._capped = None
        return True

    async def done(self, usage: Usage, status: object) -> None:
        """The provider has told its end. status: `completed`, or why it was not."""
        told, failed = usage != NOTHING, status == "failed"
        delivered = self._delivered()
        spent = billing.streamed(
            usage, self._input_tokens, delivered, is_final=told, ended_well=not failed or told, left=False, unseen=0
        )
        if told and status == "completed":
            reservation.learn(self._deps.estimator, self._reservation, self._bound, spent)
        await self._settle(spent, "upstream_error" if failed else "ok")

    async def cut(self, outcome: Outcome, error_code: str | None = None) -> None:
        """It ends in its middle: at a limit, or since one of the two sides has left."""
        self.context.error_code = error_code
        begun = self._meter is not None
        delivered = self._delivered()
        if outcome == "limit":
            spent = billing.at_limit(NOTHING, self._input_tokens, max(0, delivered))
        elif not begun:
            spent = SPENT_NOTHING
        else:
            left = outcome != "broken"
            spent = billing.streamed(
                NOTHING, self._input_tokens, delivered, is_final=False, ended_well=False, left=left, unseen=0
            )
        await self._settle(spent, outcome)

    async def _settle(self, spent: Spent, outcome: Outcome) -> None:
        """Durable when it returns."""
        if self.is_settled:
            return
        self.is_settled, self.spent = True, spent
        deps, context, verdict, lease = self._deps, self.context, self._verdict, self._lease
        assert verdict is not None
        assert lease is not None
        deps.leases.release(lease)
        now = monotonic()
        context.outcome = outcome
        context.provider_seconds = now - context.forwarded
        usage = spent.usage
        cost_micro_usd = spent.micro_usd(self._priced.prices, self._priced.model, verdict.now_ms)
        context.has_spent(spent.cost, spent.source, usage.cached_tokens, usage.reasoning_tokens, cost_micro_usd)
        try:
            await deps.tracker.settle(self._reservation, spent.cost, verdict.now_ms, cost_micro_usd=cost_micro_usd or 0)
        finally:
            deps.on_end(context)
