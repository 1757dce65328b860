"""The kill campaign: load on two Sentinels and one Redis while both are killed, and then the books are compared.

Each user has a model of their own, so that the provider's bill tells whose a request was.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import redis

from sentinel.cache import keys
from sentinel.dev.accounts import METRICS
from sentinel.dev.openai import Billed
from tests.crowd import Answer, post, start_all
from tests.stack import SentinelProcess, Stack, say

USAGE = "/api/v1/usage"
CAPPED_REQUESTS = 40
_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-4-turbo", "gpt-3.5-turbo")
_CLIENTS_EACH = 2
_TELLING_SECONDS = 30.0
_PLENTY = 1_000_000_000
_SETTINGS = {"LEASE_SECONDS": "3", "USAGE_FLUSH_SECONDS": "0.2", "RATE_LIMITS": "concurrency=50"}

_ZION_FAULTS: dict[str, dict[str, Any]] = {
    "zion_fails": {"status": 500},
    "zion_cuts": {"drop": True},
    "zion_takes_and_cuts": {"apply_then_drop": True},
}

Sums = Counter[str]


@dataclass(frozen=True)
class Figures:
    """What came of a campaign. lost, beyond, doubled: requests and tokens, summed over users.

    lost: of requests that a client has seen complete, but Zion was not told. beyond: told for requests that no client
    has seen complete. doubled: the part of `beyond` for which the provider has billed nothing, so it was told twice.
    overdrawn: requests told beyond a user's limit.
    """

    seed: int
    seconds: float
    requests: int
    complete: int
    kills: dict[str, int]
    lost: int
    doubled: int
    beyond: int
    overdrawn: int
    capped: int
    details: list[str]

    def __str__(self) -> str:
        kills = " ".join(f"{kind}={count}" for kind, count in sorted(self.kills.items()))
        return (
            f"seed={self.seed} seconds={self.seconds:.0f} requests={self.requests} complete={self.complete} {kills} "
            f"lost={self.lost} doubled={self.doubled} beyond={self.beyond} overdrawn={self.overdrawn} "
            f"capped={self.capped}/{CAPPED_REQUESTS}"
        )


@dataclass
class Campaign:
    """One campaign on `stack`. ambiguous: Zion knows idempotency keys, and sometimes takes usage without an answer."""

    stack: Stack
    seed: int
    seconds: float
    ambiguous: bool
    requests: int = 0
    complete: dict[str, Sums] = field(default_factory=dict)  # By user's model.
    seen: set[str] = field(default_factory=set)  # Ids of the requests that a client has seen complete.
    kills: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    sentinels: list[SentinelProcess] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Figures:
        """Load and kill, let all usage be told, and compare."""
        self.stack.simulators.zion.dedupe = self.ambiguous
        self.sentinels = start_all(self.stack, 2, **_SETTINGS)
        asyncio.run(self._load())
        self._wait_until_told()
        return self._compare()

    # ---------------------------------------------------------------------------------------------------- clients

    async def _load(self) -> None:
        chosen = random.Random(self.seed)
        async with asyncio.TaskGroup() as group:
            for model in _MODELS:
                limits = dict.fromkeys(METRICS, _PLENTY)
                if model == _MODELS[-1]:
                    limits["ai_requests"] = CAPPED_REQUESTS
                _, token = self.stack.user(_email(model), limits=limits)
                self.complete[model] = Counter(dict.fromkeys(METRICS, 0))
                for _ in range(_CLIENTS_EACH):
                    group.create_task(self._client(model, token, random.Random(chosen.random())))
            await asyncio.to_thread(self._kill_until_over, random.Random(chosen.random()))

    async def _client(self, model: str, token: str, chosen: random.Random) -> None:
        while not self._over.is_set():
            stream = chosen.random() < 0.6
            text = f"[[tokens={chosen.randint(1, 40)} delay={chosen.choice((0, 0.002, 0.01))}]]"
            text += " word" * chosen.randint(0, 30)
            options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            self.requests += 1
            try:
                async with asyncio.timeout(20):
                    body = {**say(text, **options), "model": model}
                    answer = await post(chosen.choice(self.sentinels), token, body)
                done = answer.status == 200 and self._book(model, answer, stream=stream)
            except (OSError, ValueError, IndexError):  # Cut, or never begun: a kill.
                done = False
            # A client that is refused, or finds nobody, comes again a little later; as people do.
            await asyncio.sleep(chosen.uniform(0.0, 0.05) if done else 0.2)

    def _book(self, model: str, answer: Answer, *, stream: bool) -> bool:
        """Note what a complete answer says of its usage. Raises ValueError if it was cut."""
        if stream:
            events = answer.events
            if not events or events[-1] != "[DONE]":
                return False
            usage = next(event["usage"] for event in reversed(events[:-1]) if event.get("usage"))
        else:
            usage = answer.json["usage"]
        request_id = answer.headers["x-request-id"]
        assert request_id not in self.seen
        self.seen.add(request_id)
        self.complete[model].update(_sums(usage["prompt_tokens"], usage["completion_tokens"]))
        return True

    # ----------------------------------------------------------------------------------------------------- killer

    def _kill_until_over(self, chosen: random.Random) -> None:
        kinds = ["sentinel", "sentinel", "store", "store", "both", "zion_fails", "zion_cuts"]
        if self.ambiguous:
            kinds += ["zion_takes_and_cuts"] * 2
        end = time.monotonic() + self.seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self._over.wait(min(left, chosen.uniform(1, 3)))
                if time.monotonic() < end:
                    self._harm(chosen.choice(kinds), chosen)
        finally:
            self._over.set()

    def _harm(self, kind: str, chosen: random.Random) -> None:
        victim, pause = chosen.choice(self.sentinels), chosen.uniform(0.05, 0.6)
        self.kills[kind] += 1
        self.history.append(f"{kind}@{time.time():.2f}")
        match kind:
            case "sentinel":
                victim.kill()
                self._over.wait(pause)
                victim.start()
            case "store":
                self.stack.store.kill()
                self._over.wait(pause)
                self.stack.store.start()
            case "both":
                victim.kill()
                self.stack.store.kill()
                self._over.wait(pause)
                self.stack.store.start()
                victim.start()
            case _:
                self.stack.simulators.zion.faults.set(**_ZION_FAULTS[kind], path_prefix=USAGE)
                self._over.wait(pause * 2)
                self.stack.simulators.zion.faults.clear()

    # ------------------------------------------------------------------------------------------------ comparison

    def _wait_until_told(self) -> None:
        """Wait until no outbox, batch, spool or lease holds anything any more."""
        end = time.monotonic() + _TELLING_SECONDS
        with redis.Redis.from_url(self.stack.store.url) as client:
            while left := self._left(client):
                assert time.monotonic() < end, (left, self.history)
                time.sleep(0.2)

    def _left(self, client: redis.Redis) -> dict[str, int]:
        left = {path.name: path.stat().st_size for path in (self.stack.folder / "spool").glob("*")}
        left["batches"] = client.hlen(keys.BATCHES)
        # An expired lease that was billed is remembered for an hour, in case its request is settled late after all.
        soon_ms = int((time.time() + 60) * 1000)
        with client.pipeline(transaction=False) as pipe:
            for partition in range(keys.PARTITIONS):
                pipe.xlen(keys.outbox(partition))
                pipe.zcount(keys.index(partition), 0, soon_ms)
            counts = pipe.execute()
        left["usage records"], left["users with leases"] = sum(counts[::2]), sum(counts[1::2])
        return {name: count for name, count in left.items() if count}

    def _compare(self) -> Figures:
        lost = beyond = doubled = 0
        details = []
        billed = list(self.stack.simulators.openai.billed)
        for model in _MODELS:
            told = self.stack.used(_email(model))
            unseen = _bill(bill for bill in billed if bill.model == model and bill.request_id not in self.seen)
            for metric in METRICS:
                more = told[metric] - self.complete[model][metric]
                lost += max(0, -more)
                beyond += max(0, more)
                doubled += max(0, more - unseen[metric])
                if more < 0 or more > unseen[metric]:
                    details.append(
                        f"{model} {metric}: complete {self.complete[model][metric]}, told {told[metric]}, "
                        f"billed for others {unseen[metric]}"
                    )
        capped = self.stack.used(_email(_MODELS[-1]))["ai_requests"]
        if details:
            details.append(" ".join(self.history))
        overdrawn = max(0, capped - CAPPED_REQUESTS)
        counts = (self.requests, len(self.seen), dict(self.kills), lost, doubled, beyond, overdrawn, capped)
        return Figures(self.seed, self.seconds, *counts, details)


def campaign(seed: int, seconds: float, *, appendfsync: str, ambiguous: bool) -> Figures:
    """Run one campaign on an installation of its own, and print its figures."""
    sys.stdout.write(f"\nSOAK_SEED={seed}\n")
    with Stack(appendfsync=appendfsync) as stack:
        figures = Campaign(stack, seed, seconds, ambiguous).run()
    line = f"kill campaign appendfsync={appendfsync} dedupe={'yes' if ambiguous else 'no'}: {figures}"
    sys.stdout.write("\n".join(["", line, *figures.details, ""]))
    return figures


def assert_exact(figures: Figures) -> None:
    """Nothing lost, nothing told twice, nobody beyond a limit; and the campaign was one."""
    assert figures.complete > 5 * figures.seconds, figures
    assert sum(figures.kills.values()) >= figures.seconds / 15, figures
    assert figures.lost == 0, figures.details
    assert figures.doubled == 0, figures.details
    assert figures.overdrawn == 0, figures
    assert figures.capped >= CAPPED_REQUESTS // 4, figures


def _email(model: str) -> str:
    return f"{model}@corp.test"


def _sums(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {"ai_requests": 1, "ai_input_tokens": prompt_tokens, "ai_output_tokens": completion_tokens}


def _bill(bills: Any) -> Sums:
    total: Sums = Counter(dict.fromkeys(METRICS, 0))
    bill: Billed
    for bill in bills:
        total.update(_sums(bill.prompt_tokens, bill.completion_tokens))
    return total
