"""What every exchange works with, and what is known of one. The phases are functions of it (exchange.py says which)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sentinel.cache.client_secrets import ClientSecretRecords
from sentinel.cache.contexts import ContextRecords
from sentinel.cache.subscription import SubscriptionCache
from sentinel.endpoints.endpoint import Endpoint, OutputBound, Request
from sentinel.endpoints.references import Reference
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Reservation, Verdict
from sentinel.memory_budget import Claim, MemoryBudget
from sentinel.middleware.lease_keeper import HeldLease, LeaseKeeper
from sentinel.middleware.ownership import Ownership
from sentinel.middleware.rate_limiter import Ledger
from sentinel.middleware.tier_router import Choice, TierRouter
from sentinel.prices.catalog import UNPRICED, Prices
from sentinel.proxy.billing import COUNTED, SPENT_NOTHING
from sentinel.proxy.client import ClientSide
from sentinel.proxy.job_follower import JobFollower
from sentinel.proxy.keepalive import StreamKeepAlive, Watched
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.provider import ProviderAnswer, ProviderRequest, ProviderStream
from sentinel.proxy.registry import Registry, Target, place_of
from sentinel.proxy.relay import LARGE_EVENT_BYTES, Drains, Relay
from sentinel.tasks import Tasks
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.input_ratio import InputRatio
from sentinel.usage.job_store import Job
from sentinel.usage.tracker import BatchingUsageTracker

T = TypeVar("T")

_LARGE_AT_ONCE = 4
"""Bodies of over a megabyte that are read and counted: each is in memory twice meanwhile, or more often."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What every exchange works with. threads: for whatever takes long to read, count or decode.

    max_body_bytes: also once a body is decoded; body_timeout_seconds: until it has come, and there is room for it.
    on_end gets the finished context: it logs and measures. answers: bounds what is in memory of answers.
    large: bounds the large bodies that are read at the same time. socket_idle_seconds: so long a provider may be silent
    in the middle of an answer over a WebSocket. secrets: whose the keys are that providers make for clients.
    """

    cache: SubscriptionCache
    ledger: Ledger
    counter: TokenCounter
    registry: Registry
    tiers: TierRouter
    tracker: BatchingUsageTracker
    ownership: Ownership
    contexts: ContextRecords
    follower: JobFollower
    leases: LeaseKeeper
    keepalive: StreamKeepAlive
    tasks: Tasks
    max_body_bytes: int
    body_timeout_seconds: float
    estimator: OutputEstimator
    drain_abandoned: bool
    threads: Executor
    on_end: Callable[[RequestContext], None]
    socket_idle_seconds: float = 600.0
    secrets: ClientSecretRecords | None = None
    input_ratio: InputRatio = field(default_factory=InputRatio)
    drains: Drains = field(default_factory=Drains)
    answers: MemoryBudget = field(default_factory=MemoryBudget)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LARGE_AT_ONCE))

    async def beside(self, work: Callable[..., T], *args: Any) -> T:
        """The result of work that takes long, done beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *args)


class ExchangeState:
    """What is known of one exchange. The fields without a value get theirs in the phase that is named beside them.

    upstream: the request as it was sent on last. stream: the provider's answer, as long as it is open.
    is_refused: the provider has answered with an error. spent: what it has cost so far. references: the provider's
    objects that it names; created: the ids of those that its answer has. job: what the provider goes on with, if that
    is followed; job_is_over: its end was seen here. choice: the model of the tier that it names, if it names one.
    target: where it was sent last.
    """

    __slots__ = (
        "answer_claim", "body", "bound", "choice", "client", "context", "counted", "created", "deps", "endpoint",
        "is_refused", "job", "job_is_over", "lease", "prices", "references", "relay", "request", "reservation",
        "spent", "stream", "target", "upstream", "verdict", "watched",
    )  # fmt: skip

    request: Request  # parse
    counted: int  # the input tokens, before they are corrected
    bound: OutputBound
    reservation: Reservation  # reserve
    verdict: Verdict
    lease: HeldLease  # forward

    def __init__(
        self, deps: Dependencies, endpoint: Endpoint[Any], client: ClientSide, context: RequestContext
    ) -> None:
        self.deps = deps
        self.endpoint = endpoint
        self.client = client
        self.context = context
        self.body = b""
        self.upstream: ProviderRequest | None = None
        self.stream: ProviderStream | None = None
        self.is_refused = False
        self.prices: Prices = UNPRICED
        self.relay: Relay | None = None
        self.spent = SPENT_NOTHING
        self.references: tuple[Reference, ...] = ()
        self.created: tuple[str, ...] = ()
        self.choice: Choice | None = None
        self.target: Target | None = None
        self.job: Job | None = None
        self.job_is_over = False
        self.answer_claim: Claim | None = None
        self.watched: Watched | None = None

    @property
    def place(self) -> str:
        """Where that is which its answer creates, "" where there is but one place."""
        if self.target is None or not self.deps.registry.is_many:
            return ""
        return place_of(self.target, "" if self.upstream is None else self.upstream.key)

    @property
    def priced_model(self) -> str:
        """The model as the provider names it that it was sent to last."""
        route = None if self.target is None else self.target.route
        return (None if route is None else route.model) or self.context.model

    def goes_to(self, target: Target | None) -> None:
        """It is sent there, and counts among what is there until it goes elsewhere, or ends (None)."""
        before, self.target = self.target, target
        if before is not None and before.route is not None:
            before.route.in_flight -= 1
        if target is not None:
            self.context.provider = target.name
            self.prices = target.prices
            if target.route is not None:
                target.route.in_flight += 1

    def own_answer(self, header_lines: bytes = b"") -> ProviderAnswer:
        """Our own answer to what is free; the log says whether it is a count or an estimate. header_lines: with it."""
        self.spent = COUNTED
        body = self.endpoint.own_answer(self.context.counted_input)
        return ProviderAnswer(200, b"content-type: application/json\r\n" + header_lines, None, body)

    async def note_created(self, told: bytes) -> None:
        """Note what an answer has created. told: a whole one, or the last event of a stream."""
        created = self.endpoint.created
        self.created = created(told) if len(told) <= LARGE_EVENT_BYTES else await self.deps.beside(created, told)
        user, secrets = self.context.user, self.deps.secrets
        if user is not None and secrets is not None:
            for secret in self.endpoint.secrets(told):
                await secrets.record(user, secret, self.place, self.request.model)
