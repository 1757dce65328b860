"""What a process keeps of users, fed a million of them: how many it keeps, what that takes, what one more costs.

Each is measured in a process of its own (`python -m bench.caches NAME`), by the growth of its resident memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench import messages
from bench.machine import PAGE_BYTES
from bench.servers import ROOT
from sentinel.cache import keys, local_ledger, subscription
from sentinel.config import parse_rate_limits
from sentinel.error import InvalidApiKey
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.output_estimator import MOST_PAIRS, REMEMBERED, OutputEstimator
from sentinel.limits.policy import Cost, Policy, Reservation
from sentinel.steps import at_once
from sentinel.usage import recent_ids
from sentinel.usage.batch import Item
from sentinel.usage.pacer import Pacer
from sentinel.usage.quarantine import Quarantine
from sentinel.usage.recent_settlements import MOST_REMEMBERED, RecentSettlements, Settled
from sentinel.usage.record_store import RecordStore

FED = 1_000_000
FOR_EVER_SECONDS = 1e6
"""Long enough for nothing to be forgotten for its age: only the bound is left."""


@dataclass(frozen=True, slots=True)
class Cache:
    """feed: take user number n. kept: how many are known. bound: the most that may be."""

    feed: Callable[[int], object]
    kept: Callable[[], int]
    bound: int


def _ask(number: int) -> Reservation:
    user = messages.user(number)
    return Reservation(f"req_{number:024x}", user, f"{user}@bench.test", messages.MODEL, 65, 68, 1, 0)


def _tokens() -> Cache:
    memory: OrderedDict[bytes, tuple[Any, float]] = OrderedDict()

    def feed(number: int) -> None:
        user = AuthenticatedUser(messages.user(number), f"{messages.user(number)}@bench.test")
        subscription._remember(memory, keys.token_digest(b"%d" % number), user, FOR_EVER_SECONDS)

    return Cache(feed, lambda: len(memory), subscription.MOST_TOKENS)


def _refused_tokens() -> Cache:
    memory: OrderedDict[bytes, tuple[Any, float]] = OrderedDict()

    def feed(number: int) -> None:
        subscription._remember(memory, keys.token_digest(b"%d" % number), InvalidApiKey("No."), FOR_EVER_SECONDS)

    return Cache(feed, lambda: len(memory), subscription.MOST_TOKENS)


def _account_keys() -> Cache:
    info = keys.account_keys.cache_info
    return Cache(
        lambda number: keys.account_keys(messages.user(number)), lambda: info().currsize, cast("int", info().maxsize)
    )


def _typical_outputs() -> Cache:
    typical = OutputEstimator(4096)

    def feed(number: int) -> None:
        for _ in range(REMEMBERED):
            typical.note(messages.user(number), messages.MODEL, 1000)

    return Cache(feed, lambda: len(typical._answers), MOST_PAIRS)


def _local_accounts() -> Cache:
    policy = Policy.of(
        parse_rate_limits("ai_requests=100/60s,ai_input_tokens=100000/60s"),
        lease_seconds=60,
        fresh_seconds=300,
        stale_seconds=3600,
    )
    ledger = local_ledger.LocalLedger(policy, 1)

    def feed(number: int) -> None:
        ask = _ask(number)
        ledger.reserve(ask)
        ledger.settle(ask, Cost(1, 65, 68))

    return Cache(feed, lambda: len(ledger._accounts), local_ledger.MOST_ACCOUNTS)


def _settled_lately() -> Cache:
    recent = RecentSettlements[Settled]()
    return Cache(
        lambda number: recent.add(Settled(0.0, 1_764_000_000_000 + number, _ask(number), Cost(1, 65, 68), 0)),
        lambda: len(recent),
        MOST_REMEMBERED,
    )


class _NoStore:
    store = None


def _taken_by_zion() -> Cache:
    store = cast("Any", _NoStore())
    book = RecordStore(store, Pacer(0), Quarantine(store))

    def feed(number: int) -> None:
        entry = f"1764000000000-{number}"
        book._on_its_way[number % 64, entry] = hash((number, "what"))
        user = messages.user(number)
        at_once(book.remember_booked([Item(number % 64, user, "", messages.MODEL, 0, [entry])]))

    def kept() -> int:
        return len(book._on_its_way) + len(book._booked)

    return Cache(feed, kept, 2 * recent_ids.MOST_REMEMBERED)


CACHES: dict[str, Callable[[], Cache]] = {
    "known tokens": _tokens,
    "refused tokens": _refused_tokens,
    "names of accounts' keys": _account_keys,
    "typical outputs": _typical_outputs,
    "accounts while Redis is away": _local_accounts,
    "settled lately": _settled_lately,
    "taken by Zion lately": _taken_by_zion,
}


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def _measure_one(name: str) -> dict[str, Any]:
    cache = CACHES[name]()
    before, started = _resident_bytes(), time.thread_time()
    for number in range(FED):
        cache.feed(number)
    us = (time.thread_time() - started) / FED * 1e6
    memory_mb = (_resident_bytes() - before) / 1e6
    return {"name": name, "fed": FED, "kept": cache.kept(), "bound": cache.bound, "memory_mb": memory_mb, "us": us}


def measure() -> list[dict[str, Any]]:
    """Every cache, each in a process of its own."""
    return [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "bench.caches", name], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
        )
        for name in CACHES
    ]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure_one(sys.argv[1]))))
