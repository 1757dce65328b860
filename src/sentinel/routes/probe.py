"""Whether what we depend on is there: Redis, Zion, the provider. Answers are kept for a few seconds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sentinel.cache.redis import Store
from sentinel.clock import monotonic, now_ms
from sentinel.error import RedisUnavailable
from sentinel.proxy.catalog import ModelCatalog
from sentinel.zion.client import ZionClient

_KEEP_SECONDS = 5.0


@dataclass(slots=True)
class Check:
    """The state of one dependency."""

    healthy: bool
    latency_ms: int

    def render(self) -> dict[str, Any]:
        """As /health shows it."""
        return {"status": "healthy" if self.healthy else "unhealthy", "latency_ms": self.latency_ms}


class Probe:
    """Asks the dependencies, seldom and with deadlines. redis_optional: we serve without Redis, too."""

    def __init__(
        self, store: Store, zion: ZionClient, catalog: ModelCatalog, *, version: str, redis_optional: bool
    ) -> None:
        self._store = store
        self._zion = zion
        self._catalog = catalog
        self._version = version
        self._redis_optional = redis_optional
        self._started = monotonic()
        self._far: tuple[Check, Check] | None = None
        self._far_until = 0.0

    async def redis(self) -> Check:
        """Redis, asked now: an answer or a miss within its deadline."""
        started = monotonic()
        try:
            await self._store.command("GET", "sentinel:ping")
        except RedisUnavailable:
            return Check(healthy=False, latency_ms=round((monotonic() - started) * 1000))
        return Check(healthy=True, latency_ms=round((monotonic() - started) * 1000))

    async def ready(self) -> bool:
        """Whether requests can be served."""
        return self._redis_optional or (await self.redis()).healthy

    async def report(self) -> dict[str, Any]:
        """The body of /health. `unhealthy`: nothing can be served; `degraded`: something is away, we serve on."""
        redis = await self.redis()
        zion, provider = await self._far_checks()
        if not redis.healthy and not self._redis_optional:
            status = "unhealthy"
        else:
            status = "healthy" if redis.healthy and zion.healthy and provider.healthy else "degraded"
        uptime = int(monotonic() - self._started)
        return {
            "status": status,
            "version": self._version,
            "uptime_seconds": uptime,
            "timestamp": datetime.fromtimestamp(now_ms() / 1000, UTC).isoformat(),
            "checks": {"redis": redis.render(), "zion": zion.render(), "provider": provider.render()},
            "stats": {"uptime_seconds": uptime},
        }

    async def _far_checks(self) -> tuple[Check, Check]:
        if self._far is None or monotonic() >= self._far_until:
            started = monotonic()
            await asyncio.gather(self._zion.ping(), self._catalog.refresh())
            self._far = (
                Check(self._zion.healthy, self._zion.latency_ms),
                Check(bool(self._catalog.healthy), round((monotonic() - started) * 1000)),
            )
            self._far_until = monotonic() + _KEEP_SECONDS
        return self._far
