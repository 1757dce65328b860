"""The ledger in Redis: the scripts of `limits/`, called for one user at a time.

Moments are Redis' own. Every method raises RedisUnavailable; whether the call was carried out is then unknown, and each
script is made so that calling it again is safe.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis import Script, Store
from sentinel.clock import now_ms
from sentinel.limits.policy import Ask, Policy, Quota, Triple, Verdict, verdict_of

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Letter:
    """What is kept of usage that Zion has refused for good. at_ms: when it was spent."""

    of: Ask
    at_ms: int
    reason: str


class RedisLedger:
    """Reserve, extend, settle, and what Zion says, as atomic scripts.

    now_ms: 0 = the clock of Redis; tests turn it by setting another value.
    """

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.now_ms = 0
        text = policy.lua()
        self._reserve = Script.load("reserve", text)
        self._extend = Script.load("extend", text)
        self._settle = Script.load("settle", text)
        self._expire = Script.load("expire", text)
        self._due = Script.load("due", text)
        self._refresh = Script.load("refresh", text)
        self._acknowledge = Script.load("acknowledge", text)

    async def reserve(self, ask: Ask) -> Verdict:
        """Admit one request over all dimensions at once, or refuse it and change nothing."""
        call = {
            "now": self.now_ms,
            "id": ask.id,
            "user": ask.user,
            "who": _who(ask),
            "cost": (1, ask.input_tokens, ask.output_tokens),
            "least": ask.least_output,
            "fair": ask.fair_output,
        }
        answer = await self.store.script(self._reserve, keys.account_keys(ask.user).all, _pack(call))
        return verdict_of(list(map(int, struct.unpack(f"<{len(answer) // 8}d", answer))), self.policy)

    async def extend(self, ask: Ask, held_output: int, more: int, sent: int, started_ms: int) -> int:
        """Keep the lease, note `sent` output tokens as delivered, reserve `more`; returns what was added.

        held_output: what the reservation holds so far, should its lease have ended. sent: -1 before the first byte.
        started_ms: the moment of the verdict.
        """
        call = {
            "now": self.now_ms,
            "id": ask.id,
            "user": ask.user,
            "who": _who(ask),
            "cost": (1, ask.input_tokens, held_output),
            "more": more,
            "sent": sent,
        }
        account = keys.account_keys(ask.user)
        return int(await self.store.script(self._extend, account.settle(started_ms), _pack(call)))

    async def settle(self, ask: Ask, spent: Triple, started_ms: int, at_ms: int = 0) -> bool:
        """Replace the reservation by what was spent and append the usage record; False if that was done before.

        started_ms: the moment of the verdict. at_ms: when it was spent, 0 = now.
        """
        call = {
            "now": self.now_ms,
            "id": ask.id,
            "user": ask.user,
            "who": _who(ask),
            "cost": spent,
            "at": at_ms,
        }
        return bool(await self.store.script(self._settle, keys.account_keys(ask.user).settle(started_ms), _pack(call)))

    async def expire(self, user: str) -> int:
        """End the user's leases that are due; returns how many reservations came back."""
        call = {"now": self.now_ms, "user": user}
        return int(await self.store.script(self._expire, keys.account_keys(user).all, _pack(call)))

    async def due(self, partition: int, most: int) -> list[str]:
        """Users of this partition whose leases may be due, at most so many."""
        call = {"now": self.now_ms, "most": most}
        users = await self.store.script(self._due, (keys.index(partition),), _pack(call))
        return [user.decode() for user in users]

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what Zion says about a user's limits. seq: of the verdict that led to asking, -1 = take it as it is."""
        call = {
            "now": self.now_ms,
            "limit": quota.limit,
            "used": quota.used,
            "ends": quota.ends_ms,
            "seq": seq,
        }
        await self.store.script(self._refresh, keys.account_keys(user).all, _pack(call))

    async def acknowledge(
        self,
        user: str,
        entries: Sequence[str],
        spent: Triple,
        period: int,
        new: Triple,
        limit: Triple,
        *,
        letter: Letter | None = None,
    ) -> int:
        """Zion has taken these outbox entries of one user; returns how many were still there.

        letter: it has refused them for good, and this takes their place.
        """
        account = keys.account_keys(user)
        call = {
            "now": self.now_ms,
            "group": keys.GROUP,
            "ids": entries,
            "cost": spent,
            "period": period,
            "new": new,
            "limit": limit,
            "letter": letter and {"who": _who(letter.of), "at": letter.at_ms, "reason": letter.reason},
        }
        touched = (*account.all, keys.dead_letters(account.partition))
        return int(await self.store.script(self._acknowledge, touched, _pack(call)))

    async def known_used(self, users: Sequence[str]) -> list[Triple | None]:
        """What Zion has booked for each user, as far as we know: its last word, and what it took since.

        None where it has not spoken yet, or of a period that is over.
        """
        places: dict[int, list[int]] = {}
        for place, user in enumerate(users):
            places.setdefault(keys.account_keys(user).partition, []).append(place)
        answers = await asyncio.gather(
            *(
                self.store.command("MGET", *(keys.account_keys(users[place]).account for place in some))
                for some in places.values()
            )
        )
        used: list[Triple | None] = [None] * len(users)
        for some, packed in zip(places.values(), answers, strict=True):
            for place, account in zip(some, packed, strict=True):
                used[place] = _used_of(account, self.now_ms or now_ms())
        return used


_HEAD = struct.Struct("<28d")


def read_account(packed: bytes) -> dict[str, Any]:
    """An account as a table with the names of ledger.lua; of use to operators and tests."""
    v = [int(number) for number in _HEAD.unpack_from(packed)]
    names = ("last", "n", "seq", "ask", "open", "lease")
    account: dict[str, Any] = dict(zip(names, v, strict=False))
    triples = zip(("held", "pend", "blind", "rolled"), range(6, 18, 3), strict=True)
    account |= {name: v[place : place + 3] for name, place in triples}
    account["q"] = {"at": v[18], "limit": v[19:22], "used": v[22:25], "ends": v[25:28]} if v[18] >= 0 else None
    rest = [int(number) for (number,) in struct.iter_unpack("<d", packed[_HEAD.size :])]
    account["w"] = {}
    while rest:
        window, count = rest[:2]
        account["w"][window], rest = rest[2 : 2 + count], rest[2 + count :]
    return account


def _who(ask: Ask) -> str:
    """Whose a usage record is. The scripts keep it as it is; MessagePack's type for bytes is unknown to them."""
    return _json((ask.id, ask.user, ask.email, ask.model)).decode()


def _used_of(packed: bytes | None, now: int) -> Triple | None:
    if packed is None:
        return None
    v = _HEAD.unpack_from(packed)
    at, used, blind, ends = v[18], v[22:25], v[12:15], v[25:28]
    if at < 0 or any(0 < end <= now for end in ends):
        return None
    return int(used[0] + blind[0]), int(used[1] + blind[1]), int(used[2] + blind[2])
