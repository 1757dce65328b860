"""What one reservation and one settlement cost Redis: microseconds of its CPU per script, sockets included.

    python -m bench.script_cost

Redis works off full pipelines here, as it does under load. Users: *fresh* ones with an empty account, one *busy* one
whose windows are full of slices and who has 200 requests in flight.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from sentinel.cache.redis import open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.config import parse_rate_limits
from sentinel.dev.store import EmbeddedStore
from sentinel.limits.policy import Cost, Policy, Quota, Reservation

RATES = {
    "default": "ai_requests=1000000/60s",
    "everything": "ai_requests=1000000/60s,ai_requests=1000000/1h,ai_input_tokens=1000000000/60s,"
    "ai_output_tokens=1000000000/60s,concurrency=100000",
}
CALLS = 10_000
AT_ONCE = 100
START_MS = 1_800_000_000_000
QUOTA = Quota((10**9, 10**12, 10**12))


def cpu_seconds(pid: int) -> float:
    """CPU that the process has had so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def cost_us(pid: int, call: Callable[[int], Awaitable[object]]) -> float:
    """Microseconds of the server's CPU per call."""
    before = cpu_seconds(pid)
    for start in range(0, CALLS, AT_ONCE):
        await asyncio.gather(*(call(n) for n in range(start, start + AT_ONCE)))
    return (cpu_seconds(pid) - before) / CALLS * 1e6


async def measure(store: EmbeddedStore, rates: str, users: list[str]) -> tuple[float, float]:
    """CPU per reserve and per settle, in microseconds."""
    connection = open_store(store.url)
    await connection.start()
    await connection.command("FLUSHALL")
    policy = Policy.of(parse_rate_limits(rates), lease_seconds=30, fresh_seconds=300, stale_seconds=3600)
    ledger = RedisLedger(connection, policy)
    ids = count()

    async def reserve(user: str) -> tuple[Reservation, int]:
        ask = Reservation(f"req_{next(ids):024d}", user, "somebody@corp.test", "gpt-4o-mini", 400, 500)
        verdict = await ledger.reserve(ask)
        assert verdict.admitted
        return ask, verdict.now_ms

    held: list[tuple[Reservation, int]] = []
    for user in users:
        ledger.now_ms = START_MS
        await ledger.refresh(user, QUOTA, 0)
    if len(users) == 1:
        for n in range(61):
            ledger.now_ms = START_MS + n * 60_000
            await reserve(users[0])
        for n in range(61):
            ledger.now_ms = START_MS + 3_660_000 + n * 1000
            await reserve(users[0])
        held = [await reserve(users[0]) for _ in range(200)]

    async def take(n: int) -> None:
        held.append(await reserve(users[n % len(users)]))

    async def give(n: int) -> None:
        ask, started_ms = held[n]
        await ledger.settle(ask, Cost(1, 400, 123), started_ms)

    costs = await cost_us(store.pid, take), await cost_us(store.pid, give)
    await connection.close()
    return costs


async def main() -> None:
    print(f"{'windows':12} {'user':6} {'reserve us':>10} {'settle us':>10}")
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder), appendonly="no") as store:
        for name, rates in RATES.items():
            for kind, users in (("fresh", [f"user-{n}" for n in range(2000)]), ("busy", ["user-0"])):
                reserve, settle = await measure(store, rates, users)
                print(f"{name:12} {kind:6} {reserve:10.1f} {settle:10.1f}")
        connection = open_store(store.url)
        await connection.start()
        baseline = await cost_us(store.pid, lambda _: connection.command("GET", "nothing"))
        print(f"for comparison, GET: {baseline:.1f} us; {time.strftime('%Y-%m-%d')}")
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
