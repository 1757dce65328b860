"""Events of campaigns beside kills: connections lost while nothing happens, poison, a Redis that is emptied."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal

import redis

from sentinel.cache import keys
from tests.support.governed import GovernedStack
from tests.support.stack import Stack

Event = tuple[str, int, Callable[[], Awaitable[None]]]
Kind = Literal["idle", "poison", "emptied", "away"]

IDLE_SECONDS = 3.5
"""Longer than what is settled lately is repeated after a lost connection."""


class Load:
    """The clients of a campaign, who can be made to wait."""

    def __init__(self) -> None:
        self.may_ask = asyncio.Event()
        self.may_ask.set()
        self.asking = 0

    async def idle(self) -> None:
        """Nobody asks, and nobody has asked for a while."""
        self.may_ask.clear()
        while self.asking:  # noqa: ASYNC110 (there are many who end)
            await asyncio.sleep(0.05)
        await asyncio.sleep(IDLE_SECONDS)


class Trouble:
    """Makes it. poisoned: how often something was put into each queue. outages: from when to when Redis was away."""

    def __init__(self, stack: Stack, load: Load, chance: random.Random) -> None:
        self._stack = stack
        self._load = load
        self._random = chance
        self._partitions = self._shuffled()
        self.poisoned = 0
        self.outages: list[tuple[float, float]] = []

    def events(self, kind: Kind) -> list[Event]:
        """The events of a campaign of this kind, with their weights."""
        cut: Event = ("connections lost", 2, self._cut_connections)
        away: Event = ("redis away", 1, self._redis_away)
        match kind:
            case "idle":
                return [("connections of the idle lost", 2, self._cut_connections_of_the_idle), cut]
            case "poison":
                return [("poison", 4, self._poison), cut]
            case "emptied":
                return [("redis emptied", 2, self._empty_redis), cut]
            case "away":
                return [away, cut]

    def events_of_governance(self, stack: GovernedStack) -> list[Event]:
        """The same for a governance of ours: it is killed, or stands still, whatever it is doing."""

        async def kill() -> None:
            await asyncio.to_thread(stack.governance.kill)
            await asyncio.sleep(self._random.uniform(0, 1.5))
            await asyncio.to_thread(stack.governance.start)

        async def pause() -> None:
            stack.pause_governance()
            await asyncio.sleep(self._random.uniform(0.1, 4))
            stack.resume_governance()

        return [("governance killed", 10, kill), ("governance stopped and resumed", 3, pause)]

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self._stack.store.url, retry_on_timeout=True)

    def _shuffled(self) -> Iterator[int]:
        while True:
            yield from self._random.sample(range(keys.PARTITIONS), keys.PARTITIONS)

    async def _cut_connections(self) -> None:
        with self._client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def _cut_connections_of_the_idle(self) -> None:
        """As after a quiet quarter of an hour: the notes of what was settled have ended."""
        await self._load.idle()
        with self._client() as client:
            for name in client.scan_iter("sentinel:{*}:settled:*"):
                client.delete(name)
        await self._cut_connections()
        await asyncio.sleep(0.5)
        self._load.may_ask.set()

    async def _redis_away(self) -> None:
        """Long enough for every replica to go on from memory, in the middle of streams."""
        since = time.monotonic()
        await asyncio.to_thread(self._stack.store.kill)
        await asyncio.sleep(self._random.uniform(0.5, 3))
        await asyncio.to_thread(self._stack.store.start)
        self.outages.append((since, time.monotonic()))
        await asyncio.sleep(2)

    async def _empty_redis(self) -> None:
        await asyncio.to_thread(self._stack.store.kill)
        shutil.rmtree(self._stack.folder / "store" / "appendonlydir")
        await asyncio.to_thread(self._stack.store.start)
        await asyncio.sleep(1)

    async def _poison(self) -> None:
        """One thing that cannot be read into each queue, before what comes next."""
        p = next(self._partitions)
        amounts = self._random.choice([(1, 2, 3, 0, float("inf")), (float("nan"), 2, 3, 0, 0), (1, -5, 3, 0, 0)])
        record = {"who": '["r","u","e","m"]', "sum": struct.pack("<5d", *amounts)}
        with self._client() as client:
            client.xadd(keys.outbox(p), record)
            client.xadd(keys.outbox(p), {"x": "y"})
            client.hset(keys.batches(), os.urandom(8).hex(), b'{"items":')
            client.zadd(keys.index(p), {b"\xff\xfe": 1})
            client.zadd("sentinel:{delivery}:members", {b"no name of ours": 0})
        folder = self._stack.folder / "spool"
        folder.mkdir(exist_ok=True)
        _write(folder / f"{self.poisoned}-poison~0.jsonl", b'{"id":"\xff"}\n{"id":\n')
        self.poisoned += 1
        # So that what is settled meanwhile lies behind it.
        await self._redis_away()

    def kept(self) -> int:
        """How much of the poison was set aside: records, batches and lines, five for each time."""
        with self._client() as client:
            records = sum(client.xlen(keys.unreadable(p)) for p in range(keys.PARTITIONS))
            batches = client.hlen(keys.unreadable_batches())
        lines = sum(path.read_bytes().count(b"\n") for path in (self._stack.folder / "spool").glob("*.bad"))
        return int(records) + int(batches) + lines


def _write(path: Path, lines: bytes) -> None:
    path.write_bytes(lines)
