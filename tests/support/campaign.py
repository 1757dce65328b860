"""A kill campaign: load on several Sentinels while processes are killed at random, and the books compared afterwards.

Nearly every request is of a caller of its own, so that what Zion was told can be compared request by request: with what
the client got, and with what the provider billed. A seed gives the same events at about the same moments again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import redis
from websockets.exceptions import WebSocketException

from sentinel.cache import keys
from sentinel.dev.generation import Billed
from sentinel.dev.zion import BATCH
from tests.support.campaign_requests import BATCHED, FILE, Order, Request, ask, draw, fetch, file_of
from tests.support.campaign_trouble import Kind, Load, Trouble
from tests.support.governed import GovernedStack
from tests.support.stack import Stack
from tests.support.waiting import wait_until

SETTINGS = {
    "USAGE_FLUSH_SECONDS": "0.2",
    "ZION_CALLS_PER_SECOND": "100",
    "SHUTDOWN_GRACE_SECONDS": "3",
    "RATE_LIMITS": "",
}
LIMIT = 150
"""Requests that the one limited caller may make."""


BOOKED_SECONDS = 1.5
"""After so long usage is booked at Zion, as a rule: a flush interval, a call, and what is ahead of it."""
UNSYNCED_SECONDS = 1.0
"""What `appendfsync everysec` promises to lose at most, and a power cut in a campaign takes away."""


@dataclass
class Report:
    """What a campaign found. Tokens are output tokens.

    forgotten: the most of the limited caller's requests of which a power cut took the reservation or settlement away;
    until Redis is told of them anew, as many others may be admitted (docs/guarantees.md, P1). unseen: the most of them
    that memory did not see while Redis was away (ADR 0007). estranged: files and responses that their creators were not
    shown. estimated: callers for whom more input was told than the provider billed, by our own count of it.
    """

    seed: int
    seconds: float
    requests: int = 0
    complete: int = 0
    events: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    overdrawn: int = 0
    estranged: int = 0
    estimated: int = 0
    forgotten: int = 0
    unseen: int = 0
    cut: int = 0
    cut_got: int = 0
    cut_charged: int = 0
    left: int = 0
    left_uncharged: int = 0
    undelivered: int = 0
    batches_in_doubt: int = 0
    ambiguous: float = 0
    lost_before_cut: list[float] = field(default_factory=list)
    poisoned: int = 0
    kept: int = 0

    def __str__(self) -> str:
        events = ", ".join(f"{name} {count}" for name, count in sorted(self.events.items()))
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.kinds.items()))
        return (
            f"seed {self.seed}: {self.requests} requests in {self.seconds:.0f} s, {self.complete} complete; {events}\n"
            f"  complete: {kinds}\n"
            f"  lost {len(self.lost)}, doubled {len(self.doubled)}, estranged {self.estranged}, "
            f"overdrawn {self.overdrawn} (forgotten {self.forgotten}, unseen {self.unseen})\n"
            f"  {self.left} left midway, {self.left_uncharged} of them uncharged\n"
            f"  {self.cut} streams cut by us: clients got {self.cut_got} tokens, charged were {self.cut_charged}\n"
            f"  {self.undelivered} answers billed by the provider and not delivered, so not charged; "
            f"{self.estimated} inputs charged by our count\n"
            f"  {self.batches_in_doubt} batches found out about, {self.ambiguous:.0f} items sent again in doubt"
            + (f"\n  lost at most {max(self.lost_before_cut):.2f} s before a power cut" if self.lost_before_cut else "")
        )


class Campaign:
    """Load and kills on a stack for so many seconds."""

    def __init__(
        self,
        stack: Stack,
        *,
        seed: int,
        seconds: float,
        clients: int = 12,
        sentinels: int = 2,
        power_cuts: Literal["none", "redis", "all"] = "none",
        trouble: Kind | None = None,
    ) -> None:
        self._stack = stack
        self._power_cuts = power_cuts
        self._cuts: list[float] = []
        self._sizes: list[tuple[float, int]] = []
        self._random = random.Random(seed)
        self._load = Load()
        self._trouble, self._kind = Trouble(stack, self._load, self._random), trouble
        self._clients = clients
        self._until = 0.0
        self._numbers = iter(range(10**9))
        self._requests: list[Request] = []
        self._sentinels = [stack.sentinel() for _ in range(sentinels)]
        _, self._limited = stack.user("limited@corp.test", limits={"ai_requests": LIMIT})
        self._shared = [stack.user(f"shared{number}@corp.test") for number in range(3)]
        self.report = Report(seed, seconds)

    async def run(self) -> Report:
        """Run it, heal everything, wait until all is told, and compare."""
        self._until = time.monotonic() + self.report.seconds
        watching = asyncio.create_task(self._watch_file())
        await asyncio.gather(self._kill(), *(self._ask_on(number) for number in range(self._clients)))
        watching.cancel()
        await asyncio.to_thread(self._heal)
        self._compare()
        return self.report

    # -------------------------------------------------------------------------------------------------------- load

    async def _ask_on(self, number: int) -> None:
        chance = random.Random(f"{self.report.seed}/{number}")
        while time.monotonic() < self._until:
            await self._load.may_ask.wait()
            self._load.asking += 1
            await self._ask(chance)
            self._load.asking -= 1

    async def _ask(self, chance: random.Random) -> None:
        kind = chance.random()
        if kind < 0.1:
            email, token = "limited@corp.test", self._limited
        elif kind < 0.3:
            user, token = chance.choice(self._shared)
            email = user.email
        else:
            user, token = self._stack.user(f"one{next(self._numbers)}@corp.test")
            email = user.email
        order = draw(chance)
        while order.kind is BATCHED and email == "limited@corp.test":
            # The requests in a batch are billed when it has ended, beyond a limit, too (ADR 0016).
            order = draw(chance)
        if order.kind is BATCHED:
            file = await self._send(chance, Request(email, "file", passes=True), token, file_of(order))
            if not file.complete:
                return
            order = replace(order, file=file.answer["id"].encode())
        request = Request(email, order.kind.name, order.kind is FILE, order.kind.counted_more, order.kind.requests)
        await self._send(chance, request, token, order)
        if not request.complete or not request.answer.get("id"):
            return
        path = f"{order.kind.path}/{request.answer['id']}"
        if order.kind is FILE or (order.kind.in_background and chance.random() < 0.5):
            # Whoever looks at a response in the background may be who finds its end.
            await asyncio.sleep(chance.choice([0, 0.6, 1.2]) if order.kind.in_background else 0)
            seen = await self._send(chance, Request(email, f"{order.kind.name} seen", passes=True), token, path)
            if seen.status == 404 and self._cuts:
                # What Redis has lost is noted again within a moment.
                await asyncio.sleep(1)
                seen = await self._send(chance, Request(email, f"{order.kind.name} seen", passes=True), token, path)
            self.report.estranged += seen.status == 404

    async def _send(self, chance: random.Random, request: Request, token: str, asked: Order | str) -> Request:
        """asked: what, or the path of what is to be looked at."""
        self._requests.append(request)
        request.began = time.monotonic()
        sentinel = chance.choice(self._sentinels)
        with contextlib.suppress(OSError, TimeoutError, ValueError, EOFError, WebSocketException):
            async with asyncio.timeout(25):
                if isinstance(asked, str):
                    await fetch(sentinel, token, asked, request)
                else:
                    await ask(sentinel, token, asked, request)
        request.ended = time.monotonic()
        if request.status != 200:
            # Nobody hammers a service that is away.
            await asyncio.sleep(0.05)
        return request

    # ------------------------------------------------------------------------------------------------------- killing

    async def _kill(self) -> None:
        events: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("sentinel killed", 4, self._kill_sentinel),
            ("redis killed", 3, self._kill_redis),
            ("both killed", 1, self._kill_both),
            ("killed in mid-batch", 4, self._kill_in_mid_batch),
            ("sentinel stopped and resumed", 1, self._pause_sentinel),
            ("sentinel terminated", 1, self._end_sentinel),
            ("zion failed", 3, self._fail_zion),
        ]
        if isinstance(self._stack, GovernedStack):
            # Faults of Zion are the simulator's.
            events = [each for each in events if each[0] not in ("killed in mid-batch", "zion failed")]
            events += self._trouble.events_of_governance(self._stack)
        if self._power_cuts != "none":
            events = [("power cut", 1, self._cut_power)]
        if self._kind is not None:
            events = self._trouble.events(self._kind)
        names = [name for name, weight, _ in events for _ in range(weight)]
        act = {name: action for name, _, action in events}
        await asyncio.sleep(1)
        while time.monotonic() < self._until - 1:
            name = self._random.choice(names)
            await act[name]()
            self.report.events[name] += 1
            await asyncio.sleep(self._random.uniform(0.3, 1.5))

    async def _kill_sentinel(self) -> None:
        victim = self._random.choice(self._sentinels)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(self._random.uniform(0, 1))
        await asyncio.to_thread(victim.start, ready=False)

    async def _kill_redis(self) -> None:
        await asyncio.to_thread(self._stack.store.kill)
        await asyncio.sleep(self._random.uniform(0, 1.5))
        await asyncio.to_thread(self._stack.store.start)

    async def _cut_power(self) -> None:
        """Kill Redis, or everything, and take away what it had not synced, as the end of its machine would."""
        await asyncio.sleep(2 * UNSYNCED_SECONDS)
        victims = self._sentinels if self._power_cuts == "all" else []
        for victim in victims:
            victim.kill()
        await asyncio.to_thread(self._stack.store.kill)
        cut = time.monotonic()
        self._cuts.append(cut)
        synced = max(size for moment, size in self._sizes if moment <= cut - UNSYNCED_SECONDS)
        with self._file().open("r+b") as file:
            file.truncate(synced)
        await asyncio.to_thread(self._stack.store.start)
        for victim in victims:
            await asyncio.to_thread(victim.start, ready=False)

    def _file(self) -> Path:
        """The append-only file that grows."""
        return max((self._stack.folder / "store" / "appendonlydir").glob("*.incr.aof"))

    async def _watch_file(self) -> None:
        while True:
            self._sizes = self._sizes[-500:]
            self._sizes.append((time.monotonic(), self._file().stat().st_size))
            await asyncio.sleep(0.01)

    async def _kill_both(self) -> None:
        victim = self._random.choice(self._sentinels)
        victim.kill()
        await asyncio.to_thread(self._stack.store.kill)
        await asyncio.to_thread(self._stack.store.start)
        await asyncio.to_thread(victim.start, ready=False)

    async def _kill_in_mid_batch(self) -> None:
        """Kill whoever tells Zion something, right when Zion has it, and before the answer."""
        fault: dict[str, Any] = self._random.choice([{"apply_then_delay_seconds": 30.0}, {"delay_seconds": 30.0}])
        zion = self._stack.simulators.zion
        before = len(zion.calls)
        zion.faults.set(**fault, times=1, path_prefix=BATCH)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while not any(call.path == BATCH for call in list(zion.calls)[before:]):  # noqa: ASYNC110 (no event)
                    await asyncio.sleep(0.002)
        victims = [sentinel for sentinel in self._sentinels if sentinel.running]
        for victim in victims:
            victim.kill()
        zion.faults.clear()
        for victim in victims:
            await asyncio.to_thread(victim.start, ready=False)

    async def _pause_sentinel(self) -> None:
        victim = self._random.choice(self._sentinels)
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(self._random.choice([1, 3, 3, 13]) if self.report.seconds > 30 else 1)
        victim.signal(signal.SIGCONT)

    async def _end_sentinel(self) -> None:
        victim = self._random.choice(self._sentinels)
        await asyncio.to_thread(victim.stop, 30)
        await asyncio.to_thread(victim.start, ready=False)

    async def _fail_zion(self) -> None:
        faults = self._stack.simulators.zion.faults
        fault: dict[str, Any] = self._random.choice(
            [{"apply_then_drop": True}, {"drop": True}, {"status": 500}, {"status": 429, "retry_after": "1"}]
        )
        faults.set(**fault, times=self._random.randint(1, 4), path_prefix="/api/v1/usage")
        await asyncio.sleep(self._random.uniform(0.2, 2))
        faults.clear()

    def _heal(self) -> None:
        """Everything runs again, and everything is told."""
        self._stack.simulators.zion.faults.clear()
        for sentinel in self._sentinels:
            if not sentinel.running:
                sentinel.start()
        with redis.Redis.from_url(self._stack.store.url, retry_on_timeout=True) as client:
            wait_until(lambda: self._is_quiet(client), "the end of all deliveries", seconds=60)
        self.report.poisoned, self.report.kept = self._trouble.poisoned, self._trouble.kept()
        self.report.ambiguous = sum(s.metric("sentinel_usage_ambiguous_total") for s in self._sentinels)
        for sentinel in self._sentinels:
            lines = [line for line in sentinel.log() if line.get("event") == "an unanswered batch"]
            self.report.batches_in_doubt += len(lines)

    def _is_quiet(self, client: redis.Redis) -> bool:
        """Whether nothing is on its way: looked at in the order in which it goes, so that nothing slips past."""
        if sum(client.hlen(keys.jobs(p)) for p in range(keys.PARTITIONS)):
            return False
        leases = sum(client.hlen(name) for name in client.scan_iter("sentinel:{*}:leases4:*", count=1000))
        fields: list[Any] = [client.hkeys(name) for name in client.scan_iter("sentinel:{*}:leases4:*", count=1000)]
        notes = sum(field.startswith(b"x:") for found in fields for field in found)
        if leases != notes or any((self._stack.folder / "spool").glob("*.jsonl")):
            return False
        return sum(client.xlen(keys.outbox(p)) for p in range(keys.PARTITIONS)) + client.hlen(keys.batches()) == 0

    # ------------------------------------------------------------------------------------------------------ comparing

    def _compare(self) -> None:
        billed = {bill.request_id: bill for bill in self._stack.simulators.openai.billed}
        told = self._stack.told()
        report = self.report
        report.requests = len(self._requests)
        own: dict[str, list[Request]] = {}
        for request in self._requests:
            report.complete += request.complete
            report.kinds[request.kind] += request.complete
            own.setdefault(request.email, []).append(request)
        for email, requests in own.items():
            if email.startswith("one"):
                self._compare_own(requests, billed, told.get(email, [0, 0, 0]))
        for email in ("limited@corp.test", *(user.email for user, _ in self._shared)):
            self._compare_shared(email, billed, told.get(email, [0, 0, 0]))
        # What the provider billed and nobody got, since its proxy was killed, is not charged to the caller's limit.
        report.overdrawn = max(0, told.get("limited@corp.test", [0])[0] - LIMIT)
        report.forgotten = max(map(self._forgotten, self._cuts), default=0)
        report.unseen = max((self._unseen_by_memory(*outage) for outage in self._trouble.outages), default=0)

    def _compare_own(self, requests: list[Request], billed: dict[str, Billed], told: list[int]) -> None:
        """All requests of a caller who has few: what they owe is told, and no more than what they were billed."""
        report = self.report
        costs = [_cost(request, billed) for request in requests]
        about = f"{requests} {[billed.get(request.id) for request in requests]} told {told}"
        # What a lease was billed at its end stays, though the provider tells less of the input later.
        most, counted = _sum(costs), sum(request.counted_more for request in requests)
        if told[0] > sum(request.requests for request in requests) or (
            None not in costs and _exceeds(told, _plus(most, [0, counted, 0]))
        ):
            report.doubled.append(about)
        report.estimated += None not in costs and told[1] > most[1]
        owed = [cost for request, cost in zip(requests, costs, strict=True) if request.must_be_told]
        assert None not in owed, about
        if _exceeds(_sum(owed), told):
            report.lost.append(about)
            report.lost_before_cut.append(self._next_cut(requests[0].ended) - requests[0].ended)
        elif len(requests) == 1 and not owed:
            self._compare_cut(requests[0], billed.get(requests[0].id), told)

    def _compare_cut(self, request: Request, bill: Billed | None, told: list[int]) -> None:
        report = self.report
        if request.left:
            report.left += 1
            report.left_uncharged += told[0] == 0
        elif request.got:
            report.cut += 1
            report.cut_got += request.got
            report.cut_charged += told[2]
        elif bill is not None and told[0] == 0:
            report.undelivered += 1

    def _forgotten(self, cut: float) -> int:
        """How many of the limited caller's requests were admitted or settled in what this power cut took away."""
        limited = [r for r in self._requests if r.email == "limited@corp.test" and r.status == 200]
        # The size of the file is looked at every 10 ms.
        since = cut - UNSYNCED_SECONDS - 0.1
        return sum(since < request.began < cut or since < request.ended < cut for request in limited)

    def _unseen_by_memory(self, since: float, until: float) -> int:
        """How many of the limited caller's requests Zion had not booked at the start, or were open at the end."""
        limited = [r for r in self._requests if r.email == "limited@corp.test" and r.status == 200]
        booked = since - BOOKED_SECONDS
        return sum(
            (request.began < since and request.ended > booked) or request.began < until < request.ended
            for request in limited
        )

    def _next_cut(self, moment: float) -> float:
        return min((cut for cut in self._cuts if cut > moment), default=float("inf"))

    def _compare_shared(self, email: str, billed: dict[str, Billed], told: list[int]) -> None:
        """Their requests are told in sums: at least what clients have complete, at most what the provider billed."""
        requests = [request for request in self._requests if request.email == email]
        most = _sum(_cost(request, billed) for request in requests)
        least = _sum(_cost(request, billed) for request in requests if request.must_be_told)
        if _exceeds(least, told):
            self.report.lost.append(f"{email}: told {told}, owed {least}")
        most_requests = sum(request.requests for request in requests)
        unseen = [most_requests, *(self._unseen(billed, name) for name in ("prompt_tokens", "completion_tokens"))]
        unseen[1] += sum(request.counted_more for request in requests)
        if told[0] > most_requests or _exceeds(told, _plus(most, unseen)):
            self.report.doubled.append(f"{email}: told {told}, billed {most}")

    def _unseen(self, billed: dict[str, Billed], name: str) -> int:
        """What the provider billed for requests whose client never learnt their id; they may be this caller's."""
        known = {request.id for request in self._requests}
        return sum(getattr(bill, name) for bill in billed.values() if bill.request_id not in known)


def _cost(request: Request, billed: dict[str, Billed]) -> list[int] | None:
    """Requests, input and output of a request, as its provider bills it; None where that is not known."""
    if request.passes:
        return [1, 0, 0]
    bill = billed.get(request.id)
    if bill is None:
        return None
    return [bill.requests, bill.prompt_tokens, bill.completion_tokens]


def _sum(costs: Iterable[list[int] | None]) -> list[int]:
    return [sum(each) for each in zip([0, 0, 0], *filter(None, costs), strict=True)]


def _plus(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _exceeds(one: list[int], other: list[int]) -> bool:
    """Whether it is more in anything."""
    return any(a > b for a, b in zip(one, other, strict=True))


async def run(
    seed: int, seconds: float, *, appendfsync: str, governance_url: str | None = None, **options: Any
) -> Report:
    """One whole campaign on a stack of its own. governance_url: of a built-in governance, in Zion's place."""
    # A lease must not end before what a power cut took away is settled again; with the default of 30 s it would not.
    lease = "3" if options.get("power_cuts", "none") == "none" else "10"
    local = {"REDIS_DOWN": "local", "SENTINEL_REPLICAS": "2"} if options.get("trouble") == "away" else {}
    given = {"appendfsync": appendfsync, "LEASE_SECONDS": lease, **SETTINGS, **local}
    stack = GovernedStack(governance_url, **given) if governance_url is not None else Stack(**given)
    with stack:
        return await Campaign(stack, seed=seed, seconds=seconds, **options).run()
