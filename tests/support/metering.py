"""Deliverers in the test's own process, on a real Valkey and a Zion that listens: for what processes could not time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import types
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import msgspec

from sentinel.cache.redis import Script, Store, open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.cache.subscription import SubscriptionCache
from sentinel.dev.server import Server
from sentinel.dev.zion import BATCH, INCREMENT, ZionSimulator
from sentinel.governance.port import Governance
from sentinel.limits.policy import Cost, Policy, Quota, Reservation
from sentinel.usage.outbox import Outbox
from sentinel.usage.timings import Timings
from sentinel.zion.client import REPORT_TIMEOUT, ZionClient
from tests.support.waiting import until

POLICY = Policy((), None, 30_000, 300_000, 3_600_000)
QUICK = Timings(unconfirmed_seconds=0.1, backoff_scale=0.1)
"""Ten times shorter pauses after failures."""

Words = tuple[Any, ...]
Tap = Callable[[Words], Awaitable[None]]

USUAL = Cost(1, 12, 7)
_numbers = itertools.count(1)


def _cost(spent: Cost) -> int:
    return 7 * spent.input + spent.output


@dataclass
class Books:
    """One Redis and one Zion, with the users of one test, and what should be booked for each of them.

    timings: of the deliverers that are made from now on.
    """

    store: Store
    ledger: RedisLedger
    zion: ZionClient
    simulator: ZionSimulator
    timings: Timings = QUICK
    owed: Counter[str] = field(default_factory=Counter)
    settled: list[tuple[Reservation, Cost]] = field(default_factory=list)

    async def user(self, email: str, **fields: Any) -> str:
        """A user whom Zion knows, and whose limits Sentinel has asked for."""
        name = email.partition("@")[0]
        self.simulator.add_user(email, external_id=name, **fields)
        used = self.simulator.used(email)
        told = (used["ai_requests"], used["ai_input_tokens"], used["ai_output_tokens"])
        await self.ledger.refresh(name, Quota(used=told), -1)
        return email

    async def spend(self, email: str, spent: Cost = USUAL, model: str = "gpt-4o-mini", at_ms: int = 0) -> None:
        """Settle one request, at a price of 7 micro-USD for a token of input, and 1 for one of output."""
        ask = Reservation(f"req_{next(_numbers)}", email.partition("@")[0], email, model, 0, 0)
        assert await self.ledger.settle(ask, spent, 1, at_ms, cost_micro_usd=_cost(spent))
        self.settled.append((ask, spent))
        for metric, amount in zip(("ai_requests", "ai_input_tokens", "ai_output_tokens"), spent, strict=True):
            self.owed[f"{email} {metric}"] += amount
        self.owed[f"{email} cost_micro_usd"] += _cost(spent)

    def forgive(self, email: str) -> None:
        """What this user has spent will not be booked."""
        for key in [key for key in self.owed if key.startswith(f"{email} ")]:
            del self.owed[key]

    async def settle_again(self) -> None:
        """What Redis may have forgotten, as the tracker does when it has come back."""
        for ask, spent in self.settled:
            await self.ledger.settle(ask, spent, 1, cost_micro_usd=_cost(spent))

    def outbox(self, machine: str = "", calls_per_second: float = 1000.0, process: str | None = None) -> Outbox:
        """A deliverer; it takes itself for a process on this machine, or for this process, or for the one it is in."""
        return Outbox(
            self.ledger,
            self.zion,
            flush_seconds=0.05,
            calls_per_second=calls_per_second,
            timings=self.timings,
            name=f"{machine}|1|1" if machine else process,
        )

    def subscriptions(self, governance: Governance) -> SubscriptionCache:
        """A cache of who users are and what they may, without anything in memory."""
        return SubscriptionCache(
            self.store,
            governance,
            self.ledger,
            jwt_ttl_seconds=300,
            limits_ttl_seconds=300,
            stale_seconds=600,
            redis_optional=False,
            on_stale=lambda: None,
        )

    def booked(self) -> Counter[str]:
        """What Zion has booked beyond what users had at their start; equal to `owed` when all is told once."""
        total: Counter[str] = Counter()
        for applied in self.simulator.applied:
            for metric in ("ai_requests", "ai_input_tokens", "ai_output_tokens", "cost_micro_usd"):
                total[f"{applied.email} {metric}"] += getattr(applied, metric)
        return +total

    def reports(self) -> list[Any]:
        """The usage reports that Zion got."""
        return [call for call in list(self.simulator.calls) if call.path in (BATCH, INCREMENT)]

    async def waiting(self) -> int:
        """Records in the outboxes."""
        return (await self.outbox().depth())[0]

    async def told(self, deliverer: Outbox) -> None:
        """Let this deliverer work until Zion has been told all, and nothing is left behind."""
        await until(deliverer.flush)
        assert await self.waiting() == 0
        assert await self.store.command("HLEN", "sentinel:batches") == 0


@asynccontextmanager
async def open_books(
    store_url: str,
    zion_url: str,
    simulator: ZionSimulator,
    timings: Timings = QUICK,
    report_timeout: timedelta = REPORT_TIMEOUT,
) -> AsyncIterator[Books]:
    """Books on an empty Redis and a Zion that has heard nothing."""
    simulator.faults.clear()
    simulator.calls.clear()
    simulator.applied.clear()
    simulator.refused_emails.clear()
    simulator.dedupe = simulator.batch_endpoint_missing = simulator.increment_missing = False
    simulator.results_style = "full"
    zion = ZionClient(zion_url, simulator.api_key, report_timeout=report_timeout)
    try:
        async with empty_store(store_url) as store:
            yield Books(store, RedisLedger(store, POLICY), zion, simulator, timings)
    finally:
        await zion.close()


@asynccontextmanager
async def empty_store(url: str) -> AsyncIterator[Store]:
    """An empty Redis, which is left empty for others."""
    store = patient_store(url)
    await store.start()
    await store.client.flushall()
    try:
        yield store
        await store.client.flushall()
    finally:
        await store.close()


def patient_store(url: str) -> Store:
    """A store that waits longer for Redis: most tests are not about a machine that is busy with others."""
    return open_store(url, deadline_seconds=10.0)


class _Tapped:
    def __init__(self, store: Store, before: Tap, after: Tap) -> None:
        self._store, self._before, self._after = store, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def command(self, *words: Any, **options: Any) -> Any:
        await self._before(words)
        answer = await self._store.command(*words, **options)
        await self._after(words)
        return answer

    async def script(self, script: Script, names: Sequence[bytes], *args: Any) -> Any:
        words = (*names, *args)
        await self._before(words)
        answer = await self._store.script(script, names, *args)
        await self._after(words)
        return answer


async def _nothing(_: Words) -> None:
    return


def tapped(store: Store, *, before: Tap = _nothing, after: Tap = _nothing) -> RedisLedger:
    """A ledger on this store, whose single commands are told before they are sent, and after they were answered.

    So are scripts that are not about accounts, as their keys and arguments. What is told may wait, or raise what the
    caller of the command shall hear.
    """
    return RedisLedger(cast("Store", _Tapped(store, before, after)), POLICY)


@contextlib.contextmanager
def other_zion(app: Any) -> Iterator[str]:
    """A Zion of the test's own making, listening; its address."""
    server = Server(app, "127.0.0.1", 0).start()
    try:
        yield server.url
    finally:
        server.stop()


def scripted(answer: Callable[[str, dict[str, str], Any], tuple[int, Any] | None], simulator: ZionSimulator) -> Any:
    """An ASGI app that asks `answer(path, headers, body)` for usage reports, and is the simulator for the rest.

    None from `answer` also means: as the simulator does.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] not in (BATCH, INCREMENT):
            await simulator.app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        raw = b"".join(message.get("body", b"") for message in messages)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        decided = answer(scope["path"], headers, msgspec.json.decode(raw))
        if decided is None:
            queue = [{"type": "http.request", "body": raw, "more_body": False}]

            async def again() -> Any:
                return queue.pop() if queue else await receive()

            await simulator.app(scope, again, send)
            return
        status, body = decided
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    return app


class Stepped:
    """Runs a coroutine that can be cancelled at its n-th suspension, or at the first one at which a condition holds."""

    def __init__(self, work: Coroutine[Any, Any, Any], cancel_at: int | Callable[[], bool]) -> None:
        self._work = work
        self.steps = 0
        self._is_due = cancel_at if callable(cancel_at) else lambda: self.steps >= cancel_at
        self.cancelled = False

    async def run(self, before: Callable[[], None] = lambda: None) -> None:
        """Run it. before: called right before the cancellation."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._drive(before)

    @types.coroutine
    def _drive(self, before: Callable[[], None]) -> Generator[Any, Any, Any]:
        try:
            future = self._work.send(None)
            while True:
                self.steps += 1
                if not self.cancelled and self._is_due():
                    self.cancelled = True
                    before()
                    if future is not None:
                        # What was waited for goes on by itself, as a call that is on its way to Redis does.
                        future._asyncio_future_blocking = False
                    future = self._work.throw(asyncio.CancelledError())
                    continue
                try:
                    yield future
                except asyncio.CancelledError as error:
                    future = self._work.throw(error)
                else:
                    future = self._work.send(None)
        except StopIteration:
            return
