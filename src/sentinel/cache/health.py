"""Whether Redis takes what requests do to it, which is tried in their way, and how it took what they really did."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sentinel.cache.connection import RedisConnection
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.clock import monotonic
from sentinel.diagnosis import reason_of
from sentinel.error import ForeignStore, RedisUnavailable

KEEP_SECONDS = 1.0
"""Whatever the number of those who ask, Redis is asked this often."""
FAILED_SECONDS = 2.0
"""A call of a request that failed for what is wrong with Redis counts so long, even if a probe passes meanwhile."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What requests meet. serving: any of them; whole: all of them. reason: what is wrong, in a few words."""

    serving: bool
    whole: bool
    latency_ms: int
    reason: str | None = None


class StoreHealth:
    """Probes each master of the ledger's store, one probe at a time."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger
        self._state: StoreState | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    @property
    def refuses(self) -> bool:
        """Whether a call of a request has failed lately for what is wrong with Redis, such as a full disk."""
        now = asyncio.get_running_loop().time()
        return any(now - master.failed_at < FAILED_SECONDS for master, _ in self._ledger.store.masters())

    async def state(self) -> StoreState:
        """What it is now, or was within the last second."""
        async with self._asking:
            if self._state is None or monotonic() >= self._until:
                started = monotonic()
                wrong = await self._wrong()
                latency_ms = round((monotonic() - started) * 1000)
                self._state = StoreState(not all(wrong), not any(wrong), latency_ms, _told(wrong))
                self._until = monotonic() + KEEP_SECONDS
            return self._state

    async def _wrong(self) -> list[str | None]:
        """What is wrong with each master, None for one that is well."""
        store = self._ledger.store
        if isinstance(store.failure, ForeignStore):
            return ["belongs to another installation"]
        return await asyncio.gather(*(self._probe(master, number) for master, number in store.masters()))

    async def _probe(self, master: RedisConnection, number: int) -> str | None:
        try:
            await self._ledger.probe(master, number)
        except RedisUnavailable as error:
            return reason_of(master.failure or error)
        if asyncio.get_running_loop().time() - master.failed_at < FAILED_SECONDS:
            return f"failed a call lately ({master.refusal})"
        return None


def _told(wrong: list[str | None]) -> str | None:
    reasons = sorted({reason for reason in wrong if reason})
    if len(wrong) == 1 or not reasons:
        return reasons[0] if reasons else None
    return f"{sum(map(bool, wrong))} of {len(wrong)} masters: {', '.join(reasons)}"
