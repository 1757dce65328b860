"""Whether what we depend on is there: Redis, Zion, the provider. Answers are kept for a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sentinel.cache.health import StoreHealth, StoreState
from sentinel.clock import monotonic, now_ms
from sentinel.governance.port import Governance
from sentinel.proxy.catalog import ModelCatalog

_KEEP_SECONDS = 5.0
_DEADLINE_SECONDS = 2.0


@dataclass(slots=True)
class Check:
    """The state of one dependency. reason: what is wrong, in a few words of ours, where that is known."""

    healthy: bool
    latency_ms: int
    reason: str | None = None

    def render(self) -> dict[str, Any]:
        """As /health shows it."""
        shown = {"status": "healthy" if self.healthy else "unhealthy", "latency_ms": self.latency_ms}
        return shown if self.reason is None else {**shown, "reason": self.reason}


class Probe:
    """Asks the dependencies, seldom and with deadlines.

    redis_optional: we serve without Redis, too. failing: tells the names of background tasks that fail. warnings: what
    is wrong with the set-up of Redis, a line for each.
    """

    def __init__(
        self,
        redis: StoreHealth,
        governance: Governance,
        catalog: ModelCatalog,
        *,
        version: str,
        redis_optional: bool,
        failing: Callable[[], list[str]],
        warnings: Callable[[], list[str]],
    ) -> None:
        self._redis = redis
        self._warnings = warnings
        self._governance = governance
        self._catalog = catalog
        self._version = version
        self._redis_optional = redis_optional
        self._failing = failing
        self._started = monotonic()
        self._far: tuple[Check, Check] | None = None
        self._far_until = 0.0
        self._asking = asyncio.Lock()

    async def ready(self) -> bool:
        """Whether requests can be served: on a cluster, those of the users of some master."""
        return self._redis_optional or (await self._redis.state()).serving

    async def report(self) -> dict[str, Any]:
        """The body of /health. `unhealthy`: nothing can be served; `degraded`: something is away, we serve on."""
        state = await self._redis.state()
        redis = _check(state)
        zion, provider = await self._far_checks()
        failing = self._failing()
        if not state.serving and not self._redis_optional:
            status = "unhealthy"
        else:
            well = redis.healthy and zion.healthy and provider.healthy and not failing
            status = "healthy" if well else "degraded"
        uptime = int(monotonic() - self._started)
        return {
            "status": status,
            "version": self._version,
            "uptime_seconds": uptime,
            "timestamp": datetime.fromtimestamp(now_ms() / 1000, UTC).isoformat(),
            "checks": {
                "redis": redis.render(),
                "zion": zion.render(),
                "provider": provider.render(),
                "tasks": {"status": "unhealthy" if failing else "healthy", "failing": failing},
            },
            "warnings": self._warnings(),
            "stats": {"uptime_seconds": uptime},
        }

    async def _far_checks(self) -> tuple[Check, Check]:
        # Whatever the number of those who ask us, we ask once.
        async with self._asking:
            if self._far is None or monotonic() >= self._far_until:
                self._far = await asyncio.gather(
                    _look(self._governance.ping, lambda: self._governance.healthy),
                    _look(self._catalog.refresh, lambda: self._catalog.healthy),
                )
                self._far_until = monotonic() + _KEEP_SECONDS
            return self._far


def _check(state: StoreState) -> Check:
    return Check(state.whole, state.latency_ms, state.reason)


async def _look(ask: Callable[[], Awaitable[object]], healthy: Callable[[], bool | None]) -> Check:
    started = monotonic()
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            await ask()
            well = bool(healthy())
    except TimeoutError:
        well = False
    return Check(healthy=well, latency_ms=round((monotonic() - started) * 1000))
