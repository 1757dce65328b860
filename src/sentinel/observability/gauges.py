"""The metrics that nobody sets in passing: each is read once a second from whoever knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass

import structlog

from sentinel.cache.health import StoreHealth
from sentinel.cache.redis import Store
from sentinel.clock import monotonic, now_ms
from sentinel.error import RedisUnavailable
from sentinel.memory_budget import MemoryBudget
from sentinel.observability.logs import LineWriter
from sentinel.observability.metrics import Metrics
from sentinel.proxy.registry import Registry
from sentinel.tasks import pause
from sentinel.usage.job_store import JobStore
from sentinel.usage.outbox import Outbox
from sentinel.usage.reconciliation import Reconciler
from sentinel.usage.tracker import BatchingUsageTracker

log = structlog.get_logger()

_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Sources:
    """What gauges read.

    jobs: those that are followed; leases: the reservations that are open; requests: the memory of all that is not
    answered. spans: how many there were, by what became of them.
    """

    jobs: JobStore
    leases: Sized
    lines: LineWriter
    outbox: Outbox
    reconciler: Reconciler
    requests: MemoryBudget
    store: Store
    store_health: StoreHealth
    tracker: BatchingUsageTracker
    registry: Registry
    spans: Callable[[], Mapping[str, int]] = dict


def _open_targets(registry: Registry) -> dict[str, int]:
    """How many targets of each provider are left alone now."""
    found: dict[str, int] = {}
    for name, route in registry.routes():
        found[name] = found.get(name, 0) + route.left_alone(monotonic())
    return found


class Gauges:
    """Reads its sources into the metrics."""

    def __init__(self, metrics: Metrics, sources: Sources) -> None:
        self._metrics = metrics
        self._sources = sources
        self._counted: dict[str, int] = {}

    async def run(self) -> None:
        """Read for ever."""
        while True:
            self.read()
            try:
                await self.read_outbox()
                self._metrics.jobs.set(sum(await self._sources.jobs.counts()))
            except RedisUnavailable:
                log.debug("the gauges wait for redis")
            await pause(_EVERY_SECONDS)

    def read(self) -> None:
        """Read all that this process knows by itself."""
        metrics, sources = self._metrics, self._sources
        metrics.flush()
        metrics.in_flight.set(len(sources.leases))
        metrics.buffered.set(sources.requests.held_bytes)
        metrics.spooled.set(sources.tracker.spooled)
        metrics.show_open(_open_targets(sources.registry))
        # Also where it is there and takes nothing, such as on a full disk.
        metrics.degraded.set(0 if sources.store.available and not sources.store_health.refuses else 1)
        delivered = sources.outbox.delivered
        metrics.usage_delivered.labels("taken").inc(max(0, self._growth("taken", delivered.taken)))
        metrics.usage_delivered.labels("dead_letter").inc(self._growth("dead", delivered.dead))
        metrics.zion_failures.inc(self._growth("failures", delivered.failures))
        metrics.ambiguous.inc(self._growth("ambiguous", delivered.ambiguous))
        metrics.odd_receipts.inc(self._growth("odd", delivered.odd))
        metrics.lines_dropped.inc(self._growth("dropped", sources.lines.dropped))
        metrics.reconciled.inc(self._growth("reconciled", sources.reconciler.corrected))
        for result, count in sources.spans().items():
            metrics.spans.labels(result).inc(self._growth(f"spans {result}", count))

    async def read_outbox(self) -> None:
        """Read how much usage waits in Redis, and since when. Raises RedisUnavailable."""
        depth, oldest_ms = await self._sources.outbox.depth()
        self._metrics.outbox_depth.set(depth)
        self._metrics.outbox_age.set((now_ms() - oldest_ms) / 1000 if oldest_ms else 0)

    def _growth(self, name: str, value: int) -> int:
        """How much this number has grown since it was last read."""
        growth, self._counted[name] = value - self._counted.get(name, 0), value
        return growth
