"""Assembles Sentinel: the only file that knows every part. Start order, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from sentinel import __version__, tracing_settings
from sentinel.cache import keys
from sentinel.cache.breaker_news import BreakerNews
from sentinel.cache.client_secrets import ClientSecretRecords
from sentinel.cache.contexts import ContextRecords
from sentinel.cache.health import StoreHealth
from sentinel.cache.inspection import TOPICS, Inspector
from sentinel.cache.installation import Installation
from sentinel.cache.local_ledger import FallbackLedger, LocalLedger
from sentinel.cache.owners import OwnerRecords
from sentinel.cache.redis import Store, open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.cache.subscription import SubscriptionCache
from sentinel.clock import monotonic
from sentinel.config import ConfigError, Settings, load_settings, told_opentelemetry
from sentinel.error import ForeignStore
from sentinel.lifecycle import LifeCycle, Service
from sentinel.limits.output_estimator import OutputEstimator
from sentinel.limits.policy import Policy
from sentinel.memory_budget import MemoryBudget
from sentinel.middleware import lease_expirer
from sentinel.middleware.lease_keeper import LeaseKeeper
from sentinel.middleware.ownership import Ownership
from sentinel.middleware.tier_router import TierRouter
from sentinel.observability import logs
from sentinel.observability.gauges import Gauges, Sources
from sentinel.observability.metrics import Metrics
from sentinel.observability.observer import Observer, Observers
from sentinel.observability.request_log import RequestLog
from sentinel.providers import Providers
from sentinel.proxy.catalog import ModelCatalog
from sentinel.proxy.client import Receive, Scope, Send
from sentinel.proxy.job_follower import JobFollower
from sentinel.proxy.keepalive import StreamKeepAlive
from sentinel.proxy.state import Dependencies
from sentinel.routes.probe import Probe
from sentinel.routes.state import AppState
from sentinel.routes.table import Routes, renderer_of, takes_upgrade
from sentinel.server.open_files import most_connections
from sentinel.server.process import FLUSH_SECONDS
from sentinel.server.workers import die_with_parent
from sentinel.tasks import Tasks, give_memory_back, hand_over_soon, patient_threads, pause
from sentinel.tokens import bpe
from sentinel.tokens.counter import TokenCounter
from sentinel.usage.job_store import JobStore
from sentinel.usage.outbox import Outbox
from sentinel.usage.reconciliation import Reconciler
from sentinel.usage.spool import Spool
from sentinel.usage.tracker import BatchingUsageTracker
from sentinel.zion.client import ZionClient

if TYPE_CHECKING:
    from sentinel.observability.tracing import Tracing

log = structlog.get_logger()

_LAST_EXCHANGES_SECONDS = 5.0
_MEMORY_SECONDS = 1.0
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
        self._build = partial(build, settings, lines, installation, multiprocess=multiprocess)
        self._routes: Routes | None = None
        self._reload: Callable[[], Awaitable[bool]] | None = None

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
        services = self._build()
        routes = Routes(services.state)
        if "state" in scope:
            scope["state"] |= {
                **services.for_connections,
                "serve_at_once": routes.serve_at_once,
                "takes_upgrade": takes_upgrade,
            }
        await services.start()
        self._routes, self._reload = routes, services.reload
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await services.close()
        # The process may end by a signal right after this, which runs no exit handler.
        self._lines.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def reload(self) -> None:
        """Read SENTINEL_CONFIG anew (SIGHUP); a faulty one changes nothing, and the log says so."""
        if self.settings.sentinel_config is None or self._reload is None:
            log.info("nothing to reload: settings are read at the start", signal="SIGHUP", pid=os.getpid())
            return
        try:
            changed = await self._reload()
        except ConfigError as error:
            log.warning("providers stay as they were", mistakes=error.mistakes, pid=os.getpid())
        except (OSError, ValueError) as error:
            # A key or a certificate that was there a moment ago.
            log.warning("providers stay as they were", mistakes=[type(error).__name__], pid=os.getpid())
        else:
            log.info("providers are read anew", changed=changed, pid=os.getpid())

    def cut(self) -> None:
        """The process ends now, with all that is open: what it has said must not end with it."""
        self._lines.close()


@dataclass(frozen=True, slots=True)
class Services:
    """All parts of one process. state: for handlers; for_connections: what the server's connections go by.

    consumer: the name under which this process delivers usage. reload: reads SENTINEL_CONFIG anew.
    """

    state: AppState
    for_connections: Mapping[str, Any]
    life_cycle: LifeCycle
    consumer: str
    reload: Callable[[], Awaitable[bool]]

    async def start(self) -> None:
        """Everything that must be there before the first request. Raises what a service raises, with all closed."""
        await self.life_cycle.start()
        # What is there now stays; the collector need not look at it again, nor look as often as it does by default.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        hand_over_soon()
        log.info("sentinel is ready", version=__version__, pid=os.getpid(), consumer=self.consumer)

    async def close(self) -> None:
        """The server has stopped accepting, and its time for open streams is over: settle, deliver, close."""
        log.info("sentinel stops", in_flight=len(self.state.deps.leases))
        await self.life_cycle.close()
        log.info("sentinel has stopped")


# Longer than a function should be: a list, of parts made from those above them. Cut up, it would hide what needs what.
def build(
    settings: Settings, lines: logs.LineWriter, installation: Installation | None, *, multiprocess: bool
) -> Services:
    """All parts of one process, none of them started."""
    keys.use_prefix(settings.redis_prefix)
    metrics = Metrics(multiprocess=multiprocess)
    requests = MemoryBudget(settings.max_buffered_bytes, most_connections())
    threads = patient_threads(_COUNTING_THREADS, "counting")
    exchange_tasks, catalog_tasks = Tasks(), Tasks()

    def unreadable(where: str) -> None:
        metrics.unreadable.labels(where).inc()

    store = open_store(settings.redis_url, _WITHOUT_REDIS[settings.redis_down], installation)
    zion = ZionClient(settings.zion_api_url, settings.zion_api_key.get_secret_value(), settings.zion_egress)
    answers = MemoryBudget(settings.max_buffered_bytes)
    providers = Providers(settings, requests, answers)
    registry = providers.registry
    requests.to_providers = lambda: providers.connections
    catalog = ModelCatalog(registry, catalog_tasks)

    ledger = RedisLedger(store, _policy(settings))
    store_health = StoreHealth(ledger)
    inspector = Inspector(
        store,
        lambda: _proven(installation, zion, Path(settings.spool_dir)),
        lambda flawed: metrics.misconfigured(flawed, TOPICS),
    )
    spool = Spool(Path(settings.spool_dir), lambda: unreadable("spool"))
    admission = _admission(settings, ledger, spool)
    cache = _cache(settings, store, zion, admission, metrics)
    tracker = BatchingUsageTracker(admission, spool, exchange_tasks, metrics.usage_lost.inc, metrics.unsure.inc)
    outbox = Outbox(
        ledger,
        zion,
        flush_seconds=settings.usage_flush_seconds,
        calls_per_second=settings.zion_calls_per_second,
        on_unreadable=unreadable,
    )
    tracing = open_tracing()
    watching: list[Observer] = [metrics, RequestLog(lines, settings.effective_log_level), *filter(None, [tracing])]
    observers = Observers(watching, catalog.label)
    reconciler = Reconciler(ledger)
    counter = TokenCounter()
    job_store, contexts = JobStore(ledger, unreadable, tracker.noted), ContextRecords(store)
    follower = JobFollower(
        job_store,
        contexts,
        registry,
        counter,
        threads,
        lease_seconds=settings.lease_seconds,
        on_billed=lambda model, cost, cost_micro_usd: metrics.job_billed(catalog.label(model), cost, cost_micro_usd),
    )
    leases = LeaseKeeper(admission, cache, settings.lease_seconds)
    keepalive = StreamKeepAlive(settings.stream_keepalive_seconds, exchange_tasks)
    news = BreakerNews(store, exchange_tasks, registry.heard)
    registry.on_opened = news.tell
    spans = dict if tracing is None else tracing.counts
    gauges = Gauges(
        metrics,
        Sources(job_store, leases, lines, outbox, reconciler, requests, store, store_health, tracker, registry, spans),
    )

    async def start_store() -> None:
        await store.start()
        await inspector.look()

    async def start_models() -> None:
        catalog_tasks.start(catalog.refresh(), "models")

    async def close_threads() -> None:
        threads.shutdown(wait=False, cancel_futures=True)

    life_cycle = LifeCycle(
        [
            *([] if tracing is None else [Service("traces", close=tracing.close)]),
            # A vocabulary takes some tenths of a second to unpack; no request shall wait for that.
            Service(
                "vocabulary", start=lambda: asyncio.to_thread(bpe.load, settings.vocabularies), close=close_threads
            ),
            Service("zion", close=zion.close),
            Service("provider", start=providers.start, close=providers.close),
            Service("store", start=start_store, close=store.close, loops={"inspection": inspector.run}),
            Service("cache", close=cache.close, loops={"forget": cache.listen, "breakers": news.run}),
            Service("models", start=start_models, close=catalog_tasks.cancel),
            Service("metrics", loops={"gauges": gauges.run, "memory": lambda: _give_memory_back(requests)}),
            Service(
                "ledger",
                loops={
                    "lease expirer": lambda: lease_expirer.run(ledger, unreadable),
                    "reconciler": reconciler.run,
                    "replay": lambda: tracker.run(store, ledger.incarnations),
                },
            ),
            Service(
                "delivery",
                close=lambda: outbox.stop(FLUSH_SECONDS),
                loops={"heartbeat": outbox.beat, "outbox": outbox.run},
            ),
            Service("jobs", loops={"jobs": follower.run}),
            Service(
                "leases",
                loops={"leases": leases.run, "lost leases": lambda: leases.run_for_losses(lambda: store.connects)},
            ),
            Service(
                "exchanges",
                close=lambda: _finish_exchanges(leases, exchange_tasks),
                loops={"keep-alive": keepalive.run, "half-closed streams": keepalive.run_for_doubts},
            ),
        ],
        lambda name: metrics.task_failures.labels(name).inc(),
    )
    deps = Dependencies(
        cache=cache,
        ledger=admission,
        counter=counter,
        registry=registry,
        tracker=tracker,
        tiers=TierRouter(
            store,
            zion,
            session_seconds=settings.session_ttl_seconds,
            config_seconds=settings.tier_config_ttl_seconds,
        ),
        ownership=Ownership(OwnerRecords(store, tracker.noted), settings.shared_objects),
        contexts=contexts,
        follower=follower,
        leases=leases,
        keepalive=keepalive,
        tasks=exchange_tasks,
        max_body_bytes=settings.max_body_bytes,
        body_timeout_seconds=settings.request_body_timeout_seconds,
        estimator=OutputEstimator(settings.default_output_tokens),
        drain_abandoned=settings.abandoned_streams == "drain",
        threads=threads,
        on_end=observers.exchange_ended,
        answers=answers,
        socket_idle_seconds=settings.upstream_idle_timeout_seconds,
        secrets=ClientSecretRecords(store),
    )
    probe = Probe(
        store_health,
        zion,
        catalog,
        version=__version__,
        redis_optional=settings.redis_down == "local",
        failing=lambda: life_cycle.failing,
        warnings=lambda: [flaw.line() for flaw in inspector.flaws],
    )
    for_connections = {
        "on_refused": observers.request_ended,
        "head_seconds": settings.request_header_timeout_seconds,
        "body_seconds": settings.request_body_timeout_seconds,
        "stall_seconds": settings.client_stall_timeout_seconds,
        "memory": requests,
        "error_renderer": renderer_of,
    }
    begin = None if tracing is None else tracing.begin
    state = AppState(settings, deps, catalog, metrics, probe, observers.request_ended, begin)
    return Services(state, for_connections, life_cycle, outbox.name, providers.reload)


def open_tracing() -> Tracing | None:
    """Traces, where the environment asks for them; None else. Raises ConfigError."""
    given = told_opentelemetry()
    asked_by = tracing_settings.asked_by(given)
    if asked_by is None:
        return None
    try:
        from sentinel.observability import tracing  # noqa: PLC0415 (needs the extra `otel`, and takes 0.2 s)
    except ModuleNotFoundError as error:
        if (error.name or "sentinel").startswith("sentinel"):
            raise
        missing = f"{asked_by} asks for traces, and {error.name} is not installed"
        raise ConfigError([f"{missing}: install Sentinel with its extra `otel` (requirements/run.txt)"]) from None
    return tracing.open_tracing(given)


def check_tracing() -> None:
    """Raises ConfigError where traces are asked for, and cannot be had as they are."""
    tracing = open_tracing()
    if tracing is not None:
        tracing.cut()


def _cache(
    settings: Settings, store: Store, zion: ZionClient, admission: RedisLedger | FallbackLedger, metrics: Metrics
) -> SubscriptionCache:
    return SubscriptionCache(
        store,
        zion,
        admission,
        jwt_ttl_seconds=settings.jwt_cache_ttl_seconds,
        limits_ttl_seconds=settings.cache_ttl_seconds,
        stale_seconds=settings.cache_stale_seconds,
        redis_optional=settings.redis_down == "local",
        on_stale=metrics.zion_stale.inc,
    )


async def _proven(installation: Installation | None, zion: ZionClient, spool_dir: Path) -> bool:
    """Whether Zion knows us, so that a Redis of nobody and this spool folder are ours."""
    if installation is None:
        return True
    if not installation.proven:
        installation.proven = await zion.examine() is None
        if installation.proven:
            await asyncio.to_thread(installation.claim_spool, spool_dir)
    return installation.proven


async def _finish_exchanges(leases: LeaseKeeper, tasks: Tasks) -> None:
    """Wait for what is still in flight, then for what goes on by itself, each for some seconds at most."""
    deadline = monotonic() + _LAST_EXCHANGES_SECONDS
    while len(leases) and monotonic() < deadline:
        await pause(0.05)
    await tasks.finish(_LAST_EXCHANGES_SECONDS)


async def _give_memory_back(requests: MemoryBudget) -> None:
    """Have the system get back what requests have left, for ever."""
    while True:
        if requests.has_shrunk():
            await asyncio.to_thread(give_memory_back)
        await pause(_MEMORY_SECONDS)


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
