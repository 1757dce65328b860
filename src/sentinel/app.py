"""Assembles Sentinel: the only file that knows every part. Start order, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sentinel import __version__
from sentinel.cache import keys
from sentinel.cache.health import StoreHealth
from sentinel.cache.inspection import TOPICS, Inspector
from sentinel.cache.installation import Installation
from sentinel.cache.local_ledger import FallbackLedger, LocalLedger
from sentinel.cache.redis import Store, open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.cache.subscription import SubscriptionCache
from sentinel.clock import monotonic, now_ms, utc_now
from sentinel.config import ConfigError, Settings, load_settings
from sentinel.error import ForeignStore, RedisUnavailable
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Policy
from sentinel.memory_budget import MemoryBudget
from sentinel.middleware import lease_expirer
from sentinel.middleware.lease_keeper import LeaseKeeper
from sentinel.observability import logs
from sentinel.observability.metrics import Metrics
from sentinel.proxy.catalog import ModelCatalog
from sentinel.proxy.client import Receive, Scope, Send
from sentinel.proxy.keepalive import StreamKeepAlive
from sentinel.proxy.logging import Level, RequestContext
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.registry import Registry, Target
from sentinel.proxy.state import Parts
from sentinel.routes.probe import Probe
from sentinel.routes.state import AppState
from sentinel.routes.table import Routes
from sentinel.server.serve import FLUSH_SECONDS, die_with_parent, most_connections
from sentinel.tasks import Tasks, give_memory_back, hand_over_soon, patient_threads, pause
from sentinel.tokens.bpe import count_for
from sentinel.tokens.counter import TokenCounter
from sentinel.usage.outbox import Outbox
from sentinel.usage.reconciliation import Reconciler
from sentinel.usage.spool import Spool
from sentinel.usage.tracker import BatchingUsageTracker
from sentinel.zion.client import ZionClient

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode

_LAST_EXCHANGES_SECONDS = 5.0
_GAUGE_SECONDS = 1.0
_WITHOUT_REDIS = {
    "refuse": "requests get 503 until it is back",
    "local": "requests are admitted from memory until it is back, usage goes to SPOOL_DIR",
}
_COUNTING_THREADS = 4
"""A thread that counts has tables of its own, 16 MB."""

_GC_THRESHOLDS = (50_000, 20, 100)
"""A request leaves few cycles behind; the default of 700 new objects has the collector run at every tenth request."""


class App:
    """The ASGI application: its lifespan is ours, its requests go to the route table.

    installation: what our Redis must belong to; None if any will do.
    """

    def __init__(
        self,
        settings: Settings,
        lines: logs.LineWriter,
        installation: Installation | None,
        *,
        multiprocess: bool = False,
    ) -> None:
        self.settings = settings
        self._lines = lines
        self._installation = installation
        self._multiprocess = multiprocess
        self._running: Running | None = None
        self._routes: Routes | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request, or the lifespan. No coroutine itself: each is resumed at each step of all within it."""
        if scope["type"] == "http":
            assert self._routes is not None
            return self._routes(scope, receive, send)
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        raise NotImplementedError(scope["type"])

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self._running = Running(self.settings, self._lines, self._installation, multiprocess=self._multiprocess)
        if "state" in scope:
            scope["state"]["on_refused"] = self._running.refused
            scope["state"]["head_seconds"] = self.settings.request_header_timeout_seconds
            scope["state"]["body_seconds"] = self.settings.request_body_timeout_seconds
            scope["state"]["stall_seconds"] = self.settings.client_stall_timeout_seconds
            scope["state"]["memory"] = self._running.memory
        await self._running.start()
        self._routes = Routes(self._running.state)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._running.stop()
        # The process may end by a signal right after this, which runs no exit handler.
        self._lines.close()
        await send({"type": "lifespan.shutdown.complete"})

    def cut(self) -> None:
        """The process ends now, with all that is open: what it has said must not end with it."""
        self._lines.close()


class Running:
    """All parts of one process, from start to stop."""

    def __init__(
        self, settings: Settings, lines: logs.LineWriter, installation: Installation | None, *, multiprocess: bool
    ) -> None:
        keys.use_prefix(settings.redis_prefix)
        self._settings = settings
        self._installation = installation
        self._lines = lines if settings.effective_log_level in ("debug", "info") else None
        self._levels = ("debug", "info") if settings.effective_log_level == "debug" else ("info",)
        self._metrics = Metrics(multiprocess=multiprocess)
        self._tasks = Tasks(lambda name: self._metrics.task_failures.labels(name).inc())
        self._exchange_tasks = Tasks()
        self._counting = patient_threads(_COUNTING_THREADS, "counting")
        self.memory = MemoryBudget(settings.max_buffered_bytes, most_connections())
        self._store: Store = open_store(settings.redis_url, _WITHOUT_REDIS[settings.redis_down], installation)
        self._zion = ZionClient(settings.zion_api_url, settings.zion_api_key.get_secret_value(), settings.zion_egress)
        self._provider = OpenAIProvider(
            settings.openai_api_url,
            settings.openai_api_key.get_secret_value(),
            connect_timeout_seconds=settings.upstream_connect_timeout_seconds,
            idle_timeout_seconds=settings.upstream_idle_timeout_seconds,
            keepalive_seconds=settings.upstream_keepalive_seconds,
            egress=settings.provider_egress,
        )
        self._ledger = RedisLedger(self._store, _policy(settings))
        self._store_health = StoreHealth(self._ledger)
        self._inspector = Inspector(
            self._store, self._prove, lambda flawed: self._metrics.misconfigured(flawed, TOPICS)
        )
        spool = Spool(Path(settings.spool_dir), lambda: self._unreadable("spool"))
        self._admission = _admission(settings, self._ledger, spool)
        self._cache = SubscriptionCache(
            self._store,
            self._zion,
            self._admission,
            jwt_ttl_seconds=settings.jwt_cache_ttl_seconds,
            limits_ttl_seconds=settings.cache_ttl_seconds,
            stale_seconds=settings.cache_stale_seconds,
            redis_optional=settings.redis_down == "local",
            on_stale=self._metrics.zion_stale.inc,
        )
        self._tracker = BatchingUsageTracker(
            self._admission, spool, self._exchange_tasks, self._metrics.usage_lost.inc, self._metrics.unsure.inc
        )
        self._outbox = Outbox(
            self._ledger,
            self._zion,
            flush_seconds=settings.usage_flush_seconds,
            calls_per_second=settings.zion_calls_per_second,
            on_unreadable=self._unreadable,
        )
        self._reconciler = Reconciler(self._ledger)
        self._leases = LeaseKeeper(self._admission, self._cache, settings.lease_seconds)
        self._keepalive = StreamKeepAlive(settings.stream_keepalive_seconds, self._exchange_tasks)
        self._catalog = ModelCatalog(self._provider, self._tasks)
        self._counted: dict[str, int] = {}
        self.state = self._assemble()

    def _unreadable(self, where: str) -> None:
        self._metrics.unreadable.labels(where).inc()

    def _assemble(self) -> AppState:
        settings = self._settings
        parts = Parts(
            cache=self._cache,
            ledger=self._admission,
            counter=TokenCounter(),
            registry=Registry(Target("openai", self._provider)),
            tracker=self._tracker,
            leases=self._leases,
            keepalive=self._keepalive,
            tasks=self._exchange_tasks,
            max_body_bytes=settings.max_body_bytes,
            body_timeout_seconds=settings.request_body_timeout_seconds,
            estimator=OutputEstimator(settings.default_output_tokens),
            drain_abandoned=settings.abandoned_streams == "drain",
            threads=self._counting,
            on_end=self._ended,
            answers=MemoryBudget(settings.max_buffered_bytes),
        )
        probe = Probe(
            self._store_health,
            self._zion,
            self._catalog,
            version=__version__,
            redis_optional=settings.redis_down == "local",
            failing=lambda: self._tasks.failing,
            warnings=lambda: [flaw.line() for flaw in self._inspector.flaws],
        )
        return AppState(settings, parts, self._catalog, self._metrics, probe, self._log)

    async def _prove(self) -> bool:
        if self._installation is not None and not self._installation.proven:
            self._installation.proven = await self._zion.examine() is None
            if self._installation.proven:
                await asyncio.to_thread(self._installation.claim_spool, Path(self._settings.spool_dir))
        return self._installation is None or self._installation.proven

    def _ended(self, context: RequestContext) -> None:
        context.model_label = self._catalog.label(context.model) if context.model else "other"
        self._metrics.ended(context)
        self._log(context)

    def refused(self, context: RequestContext) -> None:
        """Count and log what was refused by its connection, before it was a request."""
        self._metrics.errors.labels(context.error_code).inc()
        self._log(context)

    def _log(self, context: RequestContext, level: Level = "info") -> None:
        # One line for each request, and structlog takes 20 us for it: this one is encoded straight from its struct.
        if self._lines is not None and level in self._levels:
            self._lines.write(_encode(context.line(monotonic(), utc_now(), level)) + b"\n")

    async def start(self) -> None:
        """Everything that must be there before the first request."""
        # A vocabulary takes some tenths of a second to unpack; no request shall wait for that.
        await asyncio.to_thread(count_for, "gpt-4o")
        await self._store.start()
        await self._inspector.look()
        for_ever: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "inspection": self._inspector.run,
            "heartbeat": self._outbox.beat,
            "outbox": self._outbox.run,
            "leases": self._leases.run,
            "keep-alive": self._keepalive.run,
            "half-closed streams": self._keepalive.run_for_doubts,
            "replay": lambda: self._tracker.run(self._store, self._ledger.lives),
            "lease expirer": lambda: lease_expirer.run(self._ledger, self._unreadable),
            "reconciler": self._reconciler.run,
            "gauges": self._measure,
            "forget": self._cache.listen,
        }
        for name, work in for_ever.items():
            self._tasks.keep(work, name)
        self._tasks.start(self._catalog.refresh(), "models")
        # What is there now stays; the collector need not look at it again, nor look as often as it does by default.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        hand_over_soon()
        log.info("sentinel is ready", version=__version__, pid=os.getpid(), consumer=self._outbox.name)

    async def stop(self) -> None:
        """The server has stopped accepting, and its time for open streams is over: settle, deliver, close."""
        log.info("sentinel stops", in_flight=len(self._leases))
        deadline = monotonic() + _LAST_EXCHANGES_SECONDS
        while len(self._leases) and monotonic() < deadline:
            await pause(0.05)
        await self._exchange_tasks.finish(_LAST_EXCHANGES_SECONDS)
        await self._outbox.stop(FLUSH_SECONDS)
        await self._tasks.cancel()
        await self._cache.close()
        self._counting.shutdown(wait=False, cancel_futures=True)
        await self._provider.close()
        await self._zion.close()
        await self._store.close()
        log.info("sentinel has stopped")

    async def _measure(self) -> None:
        """Keep the gauges that nobody sets in passing."""

        def grown(name: str, value: int) -> int:
            growth, self._counted[name] = value - self._counted.get(name, 0), value
            return growth

        while True:
            self._metrics.flush()
            self._metrics.in_flight.set(len(self._leases))
            self._metrics.buffered.set(self.memory.held_bytes)
            if self.memory.has_shrunk():
                await asyncio.to_thread(give_memory_back)
            self._metrics.spooled.set(self._tracker.spooled)
            # Also where it is there and takes nothing, such as on a full disk.
            self._metrics.degraded.set(0 if self._store.available and not self._store_health.refuses else 1)
            counts = self._outbox.delivered
            self._metrics.usage_delivered.labels("taken").inc(max(0, grown("taken", counts.taken)))
            self._metrics.usage_delivered.labels("dead_letter").inc(grown("dead", counts.dead))
            if self._lines is not None:
                self._metrics.lines_dropped.inc(grown("dropped", self._lines.dropped))
            self._metrics.zion_failures.inc(grown("failures", counts.failures))
            self._metrics.reconciled.inc(grown("reconciled", self._reconciler.corrected))
            self._metrics.ambiguous.inc(grown("ambiguous", counts.ambiguous))
            self._metrics.odd_receipts.inc(grown("odd", counts.odd))
            try:
                depth, oldest_ms = await self._outbox.depth()
            except RedisUnavailable:
                log.debug("the gauges wait for redis")
            else:
                self._metrics.outbox_depth.set(depth)
                self._metrics.outbox_age.set((now_ms() - oldest_ms) / 1000 if oldest_ms else 0)
            await pause(_GAUGE_SECONDS)


def _admission(settings: Settings, redis: RedisLedger, spool: Spool) -> RedisLedger | FallbackLedger:
    """Who admits: Redis alone, or this process's share of the limits while Redis is away."""
    if settings.redis_down == "refuse":
        return redis
    share = settings.sentinel_replicas * settings.sentinel_workers
    return FallbackLedger(redis, LocalLedger(_policy(settings, share), share), lambda: spool.depth)


def _policy(settings: Settings, share: int = 1) -> Policy:
    return Policy.of(
        settings.rate_limits,
        lease_seconds=settings.lease_seconds,
        fresh_seconds=settings.cache_ttl_seconds,
        stale_seconds=settings.cache_stale_seconds,
        share=share,
    )


def from_environment() -> Callable[..., Any]:
    """The application for `sentinel serve`, made in each worker from the environment."""
    settings = load_settings()
    lines = logs.configure(settings.effective_log_level)
    if settings.sentinel_workers > 1:
        die_with_parent()
    installation = Installation(settings.zion_api_url)
    return App(settings, lines, installation, multiprocess=settings.sentinel_workers > 1)


def check_ownership(settings: Settings, installation: Installation) -> None:
    """Raises ConfigError where REDIS_URL or SPOOL_DIR is another installation's. A Redis that is away is seen later."""
    keys.use_prefix(settings.redis_prefix)
    with logs.silence():
        failure = asyncio.run(_store_failure(settings, installation))
    mistakes = [f"REDIS_URL: {failure.message}"] if isinstance(failure, ForeignStore) else []
    if reason := installation.spool_refusal(Path(settings.spool_dir)):
        mistakes.append(f"SPOOL_DIR: {reason}")
    if mistakes:
        raise ConfigError(mistakes)


async def _store_failure(settings: Settings, installation: Installation) -> Exception | None:
    store = open_store(settings.redis_url, installation=installation)
    try:
        await store.start()
        return store.failure
    finally:
        await store.close()
