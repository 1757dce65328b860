"""The ledger in Redis: the scripts of `limits/`, called for one user at a time.

Moments are Redis' own. Every method raises RedisUnavailable; whether the call was carried out is then unknown, and each
script is made so that calling it again is safe.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis import Script, Store
from sentinel.limits.policy import Ask, Policy, Quota, Triple, Verdict, verdict_of

_pack = msgspec.msgpack.Encoder().encode


class RedisLedger:
    """Reserve, extend, settle, and what Zion says, as atomic scripts.

    now_ms: 0 = the clock of Redis; tests turn it by setting another value.
    """

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.now_ms = 0
        self._policy = _pack(policy.wire())
        self._reserve = Script.load("reserve")
        self._extend = Script.load("extend")
        self._settle = Script.load("settle")
        self._expire = Script.load("expire")
        self._due = Script.load("due")
        self._refresh = Script.load("refresh")
        self._acknowledge = Script.load("acknowledge")

    async def reserve(self, ask: Ask) -> Verdict:
        """Admit one request over all dimensions at once, or refuse it and change nothing."""
        call = {
            "now": self.now_ms,
            "id": ask.id,
            "user": ask.user,
            "email": ask.email,
            "model": ask.model,
            "cost": (1, ask.input_tokens, ask.output_tokens),
            "least": ask.least_output,
            "fair": ask.fair_output,
        }
        answer = await self.store.script(self._reserve, keys.account_keys(ask.user).all, self._policy, _pack(call))
        return verdict_of(answer, self.policy)

    async def extend(self, ask: Ask, held_output: int, more: int, sent: int, started_ms: int) -> int:
        """Keep the lease, note `sent` output tokens as delivered, reserve `more`; returns what was added.

        held_output: what the reservation holds so far, should its lease have ended. sent: -1 before the first byte.
        started_ms: the moment of the verdict.
        """
        call = {
            "now": self.now_ms,
            "id": ask.id,
            "user": ask.user,
            "email": ask.email,
            "model": ask.model,
            "cost": (1, ask.input_tokens, held_output),
            "more": more,
            "sent": sent,
        }
        account = keys.account_keys(ask.user)
        return int(await self.store.script(self._extend, account.settle(started_ms), self._policy, _pack(call)))

    async def settle(self, ask: Ask, spent: Triple, started_ms: int, at_ms: int = 0) -> bool:
        """Replace the reservation by what was spent and append the usage record; False if that was done before.

        started_ms: the moment of the verdict. at_ms: when it was spent, 0 = now.
        """
        call = {
            "now": self.now_ms,
            "id": ask.id,
            "user": ask.user,
            "email": ask.email,
            "model": ask.model,
            "cost": spent,
            "at": at_ms,
        }
        return bool(
            await self.store.script(
                self._settle, keys.account_keys(ask.user).settle(started_ms), self._policy, _pack(call)
            )
        )

    async def expire(self, user: str) -> int:
        """End the user's leases that are due; returns how many reservations came back."""
        call = {"now": self.now_ms, "user": user}
        return int(await self.store.script(self._expire, keys.account_keys(user).all, self._policy, _pack(call)))

    async def due(self, partition: int, most: int) -> list[str]:
        """Users of this partition whose leases may be due, at most so many."""
        call = {"now": self.now_ms, "most": most}
        users = await self.store.script(self._due, (keys.index(partition),), _pack(call))
        return [user.decode() for user in users]

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what Zion says about the user's limits, asked when `seq` acknowledgements were known.

        seq: -1 = take it as it is, whatever was acknowledged meanwhile; for operators.
        """
        call = {
            "now": self.now_ms,
            "limit": quota.limit,
            "used": quota.used,
            "ends": quota.ends_ms,
            "seq": seq,
        }
        await self.store.script(self._refresh, keys.account_keys(user).all, self._policy, _pack(call))

    async def acknowledge(
        self, user: str, entries: Sequence[bytes], spent: Triple, period: int, new: Triple, limit: Triple
    ) -> int:
        """Zion has taken these outbox entries of one user; returns how many were still there."""
        call = {
            "now": self.now_ms,
            "group": keys.GROUP,
            "ids": [entry.decode() for entry in entries],
            "cost": spent,
            "period": period,
            "new": new,
            "limit": limit,
        }
        return int(await self.store.script(self._acknowledge, keys.account_keys(user).all, self._policy, _pack(call)))
