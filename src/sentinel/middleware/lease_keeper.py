"""Keeps the leases of open requests alive, and notes what their streams have delivered.

One ticker for all requests of a process. A stream gets a checkpoint when it starts, and then whenever it has delivered
CHECKPOINT_TOKENS more, at most once a second: should this process be killed, the caller is billed what the last one
says. A lease is renewed when a third of it has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import structlog

from sentinel.clock import monotonic
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Ask, Verdict
from sentinel.middleware.rate_limiter import Ledger
from sentinel.tasks import pause

log = structlog.get_logger()

CHECKPOINT_SECONDS = 1.0
CHECKPOINT_TOKENS = 50
"""A checkpoint costs as much as relaying four chunks; so it adds less than a tenth."""
_AT_ONCE = 64

PATIENCE_SECONDS = 5.0
_AGAIN_SECONDS = 0.1


class Held(msgspec.Struct, eq=False):
    """An open reservation. output: tokens reserved for output. sent: tells the output delivered so far, exactly."""

    ask: Ask
    started_ms: int
    output: int
    sent: Callable[[], int] | None = None
    noted: int = -1
    renewed: float = 0.0


class LeaseKeeper:
    """All open reservations of this process."""

    def __init__(self, ledger: Ledger, lease_seconds: float) -> None:
        self._ledger = ledger
        self._renew_seconds = lease_seconds / 3
        self._open: set[Held] = set()

    def __len__(self) -> int:
        """How many requests are in flight."""
        return len(self._open)

    def hold(self, ask: Ask, verdict: Verdict) -> Held:
        """Keep this reservation from now on."""
        held = Held(ask, verdict.now_ms, verdict.granted_output, renewed=monotonic())
        self._open.add(held)
        return held

    def release(self, held: Held) -> None:
        """Let it go; its request is about to be settled."""
        self._open.discard(held)

    async def extend(self, held: Held, more: int, sent: int) -> int:
        """Reserve more output for it; returns what was added, 0 when nothing is left.

        A stream that has tokens left must not end because Redis stumbles: tries for PATIENCE_SECONDS, then raises
        RedisUnavailable.
        """
        until = monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await self._extend(held, more, sent)
            except RedisUnavailable:
                if monotonic() > until:
                    raise
            await pause(_AGAIN_SECONDS)

    async def _extend(self, held: Held, more: int, sent: int) -> int:
        added = await self._ledger.extend(held.ask, held.output, more, sent, held.started_ms)
        held.output += added
        held.noted = sent
        held.renewed = monotonic()
        return added

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            await pause(min(CHECKPOINT_SECONDS, self._renew_seconds))
            due = [held for held in self._open if self._due(held)]
            for start in range(0, len(due), _AT_ONCE):
                await asyncio.gather(*(self._note(held) for held in due[start : start + _AT_ONCE]))

    def _due(self, held: Held) -> bool:
        return held.sent is not None or monotonic() - held.renewed >= self._renew_seconds

    async def _note(self, held: Held) -> None:
        sent = -1 if held.sent is None else held.sent()
        moved = sent >= held.noted + CHECKPOINT_TOKENS or held.noted < 0 <= sent
        if held in self._open and (moved or monotonic() - held.renewed >= self._renew_seconds):
            # While the ledger is away the next tick tries again.
            with contextlib.suppress(RedisUnavailable):
                await self._extend(held, 0, sent)
