"""The ledger in Redis: the functions of `limits/`, called for one user at a time.

Moments are Redis' own. Every method raises RedisUnavailable; whether the call was carried out is then unknown, and each
of them is made so that calling it again is safe.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from operator import add
from typing import Any

import msgspec

from sentinel.cache import keys
from sentinel.cache.connection import Arg, RedisConnection
from sentinel.cache.redis import Script, Store, constants_of
from sentinel.clock import now_ms
from sentinel.error import RedisRefused
from sentinel.limits.policy import ByDimension, Cost, Policy, Quota, Reservation, Verdict, View, verdict_of, view_of

_msgpack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
_double, _five, _eight = (struct.Struct(form).pack for form in ("<d", "<5d", "<8d"))
_RESERVE = b"%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n$40\r\n%b\r\n"
"""The call as it goes over the wire: opening, keys, id, user, numbers. hiredis packs it in 0.9 us, this takes 0.2."""
_SETTLE = b"%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$64\r\n%b\r\n"
"""Opening, keys, set of settled ids, id, whose it is, numbers."""
_SETTLED = (False, True, None)
_NOT_KNOWN = -1
"""Of `extend`: no usable limits are known."""
_ten, _eleven = struct.Struct("<10d").pack, struct.Struct("<11d").pack

MOST_DOUBTFUL = 10_000
"""Users whose records are to be looked at; others will be doubtful again when Zion is asked the next time."""


class Taken(msgspec.Struct, frozen=True, gc=False):
    """Usage of one user that Zion has taken. entries: its records in the outbox; spent: what they come to.

    new: Zion's values after that, -1 = not told. limit: Zion's limits, -1 = none, -2 = not told.
    """

    user: str
    entries: Sequence[str]
    spent: Cost
    period: int
    new: ByDimension = (-1, -1, -1)
    limit: ByDimension = (-2, -2, -2)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is kept of usage that Zion has refused for good. at_ms: when it was spent."""

    of: Reservation
    at_ms: int
    reason: str
    cost_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a stream of usage has: how many entries, the last of them, and of one user's records what they are made of.

    records: requests, input, output, quota period, moment.
    """

    entries: int
    last: str
    records: Sequence[tuple[int, int, int, int, int]]


class RedisLedger:
    """Reserve, extend, settle, and what Zion says, as atomic functions in Redis.

    now_ms: 0 = the clock of Redis; tests turn it by setting another value. doubtful: users of whom more may count as
    pending or refused than there are records of; usage/reconciler.py empties it.
    """

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.now_ms = 0
        self._verdict = struct.Struct(f"<{11 + 2 * len(policy.windows)}q")
        self._seen = struct.Struct(f"<{14 + 2 * len(policy.windows)}q")
        library = Script.library(_LUA, "ledger", policy.lua(), ("due", "view"))
        self._reserve, self._settle, self._extend = library["reserve"], library["settle"], library["extend"]
        self._reserve_opening, self._settle_opening = self._reserve.opening(4, 3), self._settle.opening(5, 3)
        self._expire, self._due, self._view = library["expire"], library["due"], library["view"]
        self._refresh, self._acknowledge = library["refresh"], library["acknowledge"]
        self._requeue, self._discard, self._reconcile = library["requeue"], library["discard"], library["reconcile"]
        self._probe, self._forget = library["probe"], library["forget"]
        self.doubtful: set[str] = set()

    async def reserve(self, reservation: Reservation) -> Verdict:
        """Admit one request over all dimensions at once, or refuse it and change nothing."""
        numbers = _five(
            self.now_ms,
            reservation.input_tokens,
            reservation.output_tokens,
            reservation.least_output,
            reservation.fair_output,
        )
        account, request_id = keys.account_keys(reservation.user), reservation.id.encode()
        call = _RESERVE % (
            self._reserve_opening,
            account.packed,
            len(request_id),
            request_id,
            len(account.name),
            account.name,
            numbers,
        )
        answer = await self.store.run(self._reserve, account.account, call)
        form = self._verdict if len(answer) == self._verdict.size else struct.Struct(f"<{len(answer) // 8}q")
        return verdict_of(form.unpack(answer), self.policy)

    async def probe(self, master: RedisConnection, number: int) -> None:
        """Go the way of a request to this master, and write there under the hash tag of this number."""
        await master.call(self._probe.packed((keys.probe(number),), ()), self._probe.load)

    async def view(self, user: str) -> View:
        """What the user may spend and has spent; changes nothing."""
        answer = await self.store.script(self._view, keys.account_keys(user).all, self.now_ms)
        return view_of(self._seen.unpack(answer), self.policy)

    async def extend(
        self, reservation: Reservation, held_output: int, more: int, delivered: int, started_ms: int
    ) -> int | None:
        """Keep the lease, note the output tokens delivered, reserve `more`; returns what it holds from now on.

        That is less than before if the lease had ended, and others have what it held, PLACE_TAKEN if they have all of
        it and nothing was delivered; None if no usable limits are known: then nothing was added. held_output: what the
        reservation holds so far, should its lease have ended. delivered: -1 before the first byte. started_ms: the
        moment of the verdict.
        """
        numbers = _five(self.now_ms, reservation.input_tokens, held_output, more, delivered)
        touched = keys.account_keys(reservation.user).settle(started_ms)
        holds = int(
            await self.store.script(self._extend, touched, reservation.id, reservation.user, _who(reservation), numbers)
        )
        return None if holds == _NOT_KNOWN else holds

    async def settle(
        self,
        reservation: Reservation,
        spent: Cost,
        started_ms: int,
        at_ms: int = 0,
        *,
        unsure: bool = False,
        cost_micro_usd: int = 0,
    ) -> bool | None:
        """Replace the reservation by what was spent and append the usage record; False if that was done before.

        started_ms: the moment of the verdict. at_ms: when it was spent, 0 = now. unsure: it was tried so long ago that
        Redis may have forgotten; then None, and nothing is done, where no lease tells that it was not carried out.
        """
        account, bucket = keys.account_keys(reservation.user), keys.settled_bucket(started_ms)
        settled, request_id, who = account.settled(bucket), reservation.id.encode(), _who(reservation)
        call = _SETTLE % (
            self._settle_opening,
            account.packed,
            len(settled),
            settled,
            len(request_id),
            request_id,
            len(who),
            who,
            _eight(self.now_ms, at_ms, *spent, bucket, unsure, cost_micro_usd),
        )
        return _SETTLED[await self.store.run(self._settle, account.account, call)]

    async def settle_job(
        self, reservation: Reservation, spent: Cost, started_ms: int, job: str, cost_micro_usd: int = 0
    ) -> bool:
        """Settle what a job has cost, and forget the job; False if that was done before. job: its id."""
        account, bucket = keys.account_keys(reservation.user), keys.settled_bucket(started_ms)
        touched = (*account.settle(started_ms), keys.jobs(account.partition), keys.jobs_due(account.partition))
        numbers = _eight(self.now_ms, 0, *spent, bucket, False, cost_micro_usd)
        done = await self.store.script(self._settle, touched, reservation.id, _who(reservation), numbers, job)
        return bool(_SETTLED[done])

    async def incarnations(self) -> list[bytes]:
        """For each partition a name that is another one once Redis was emptied."""
        names = [keys.life(p) for p in range(keys.PARTITIONS)]
        await asyncio.gather(*(self.store.command("SET", name, secrets.token_hex(8), "NX") for name in names))
        return await asyncio.gather(*map(self._incarnation, names))

    async def _incarnation(self, name: bytes) -> bytes:
        try:
            return await self.store.command("GET", name) or b""
        except RedisRefused:
            return b""

    async def expire(self, user: str) -> int:
        """End the user's leases that are due; returns how many reservations came back."""
        return int(await self.store.script(self._expire, keys.account_keys(user).all, self.now_ms, user))

    async def due(self, partition: int, most: int) -> list[str]:
        """Users of this partition whose leases may be due, at most so many."""
        index = keys.index(partition)
        names = await self.store.script(self._due, (index,), self.now_ms, most)
        if not names:
            return []
        users = [name.decode(errors="replace") for name in names]
        if foreign := [n for n, user in zip(names, users, strict=True) if keys.partition_of(user) != partition]:
            # Nothing that is done for them would take them out of here.
            await self.store.command("ZREM", index, *foreign)
        return [user for user in users if keys.partition_of(user) == partition]

    async def look_later(self, user: str, ms: int) -> None:
        """Whoever asks for users with due leases is not told this one before so many ms have passed."""
        account = keys.account_keys(user)
        await self.store.command("ZADD", account.index, "XX", (self.now_ms or now_ms()) + ms, account.name)

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what Zion says about a user's limits. seq: of the verdict that led to asking, -1 = take it as it is."""
        numbers = _eleven(self.now_ms, seq, *quota.limit, *quota.used, *quota.ends_ms)
        if await self.store.script(self._refresh, _with_letters(user), numbers) and len(self.doubtful) < MOST_DOUBTFUL:
            self.doubtful.add(user)

    async def forget_limits(self, user: str) -> bool:
        """Nothing is granted before Zion was asked again; whether there is an account."""
        return bool(await self.store.script(self._forget, keys.account_keys(user).all, self.now_ms))

    async def has_account(self, user: str) -> bool:
        """Whether there is one."""
        return await self.store.command("GET", keys.account_keys(user).account) is not None

    async def acknowledge(self, items: Sequence[Taken], letter: Letter | None = None) -> int:
        """Zion has taken these items, of users of one partition; returns how many of their records were still there.

        letter: it has refused the one item for good, and this takes its place.
        """
        accounts = [keys.account_keys(item.user) for item in items]
        first = accounts[0]
        touched = [first.index, first.outbox, keys.dead_letters(first.partition)]
        words: list[Arg] = [keys.GROUP, self.now_ms]
        for account, item in zip(accounts, items, strict=True):
            touched += (account.account, account.leases)
            words += (_ten(item.period, *item.spent, *item.new, *item.limit), _msgpack(item.entries))
        if letter is not None:
            words += (_who(letter.of), letter.at_ms, letter.reason, _double(letter.cost_micro_usd))
        return int(await self.store.script(self._acknowledge, touched, *words))

    async def requeue(self, of: Reservation, entry: str) -> str | None:
        """Put a dead letter back into the outbox; returns its entry there, None if somebody did that before.

        of: whose it is; the e-mail may be another one than it was.
        """
        new = await self.store.script(self._requeue, _with_letters(of.user), self.now_ms, entry, _who(of))
        return None if new is None else str(new, "ascii")

    async def discard(self, user: str, entry: str) -> bool:
        """Delete a dead letter; False if it is not there."""
        return bool(await self.store.script(self._discard, _with_letters(user), self.now_ms, entry))

    async def reconcile(self, user: str, waiting: Found, letters: Found) -> bool | None:
        """Correct what the account has as pending and as refused by the records that were found.

        Returns whether there was anything to correct; None if something has come or gone meanwhile: look again.
        """
        pending = [sum(record[d] for record in waiting.records) for d in range(3)]
        numbers = [waiting.entries, letters.entries, *pending, *chain.from_iterable(letters.records)]
        packed = struct.pack(f"<{len(numbers)}d", *numbers)
        words = (self.now_ms, packed, waiting.last, letters.last)
        corrected = int(await self.store.script(self._reconcile, _with_letters(user), *words))
        return None if corrected < 0 else corrected == 1

    async def known_used(self, users: Sequence[str]) -> list[ByDimension | None]:
        """What Zion has booked for each of these users of one partition: its last word, and what it took since.

        None where it has not spoken yet, or of a period that is over, or where it is unclear whether its last word
        has what it took without one: such an account is to ask Zion sooner than others.
        """
        accounts = await self.store.command("MGET", *(keys.account_keys(user).account for user in users))
        now = self.now_ms or now_ms()
        return [_used_of(account, now, self.policy.fresh_ms) for account in accounts]


_LUA = resources.files("sentinel.limits") / "lua"
_LAYOUT = {name: int(place) for name, place in constants_of((_LUA / "ledger.lua").read_text()).items()}
"""What ledger.lua calls the places of an account: it is the one that defines them."""
_HEAD = struct.Struct(f"<{_LAYOUT['COUNT'] - 2}d")
"""The numbers before the windows. In Lua they begin at the second place, and are counted from 1."""
_EXACT = 2**53


def _place(name: str) -> int:
    """Where the number of this name is in a row that was unpacked."""
    return _LAYOUT[name] - 2


def _places(name: str) -> slice:
    """Where the three numbers of this name are; in Lua their place is that before the first."""
    return slice(_LAYOUT[name] - 1, _LAYOUT[name] + 2)


_AT, _ASK = _place("AT"), _place("ASK")
_USED, _BLIND, _ENDS = _places("USED"), _places("BLIND"), _places("ENDS")


def read_account(packed: bytes) -> dict[str, Any]:
    """An account as a table with the names of ledger.lua; of use to operators and tests."""
    row = [int(number) for number in _HEAD.unpack_from(packed)]
    account: dict[str, Any] = {name.lower(): row[_place(name)] for name in ("LAST", "N", "SEQ", "ASK", "OPEN", "LEASE")}
    account |= {name.lower(): row[_places(name)] for name in ("HELD", "PEND", "BLIND", "ROLLED")}
    account["letters"], account["q"] = [0, 0, 0], None
    if row[_AT] >= 0:
        account["q"] = {"at": row[_AT]} | {name.lower(): row[_places(name)] for name in ("LIMIT", "USED", "ENDS")}
    (count,) = struct.unpack_from("<d", packed, _HEAD.size)
    heads = [struct.unpack_from("<5d", packed, _HEAD.size + 8 + 40 * k) for k in range(int(count))]
    account["w"], at = {}, _HEAD.size + 8 + 40 * len(heads)
    for window, size, first, total, newest in heads:
        form, each = ("I", 4) if total < _LAYOUT["NARROW"] else ("d", 8)
        older = struct.unpack_from(f"<{int(size) // each}{form}", packed, at)
        at += int(size)
        if window == _LAYOUT["LETTERS"]:
            account["letters"] = [int(first), int(total), int(newest)]
        elif total:
            account["w"][int(window)] = [int(first), *map(int, older), int(newest)]
    return account


def _with_letters(user: str) -> tuple[bytes, ...]:
    """KEYS of the scripts that look at dead letters."""
    account = keys.account_keys(user)
    return (*account.all, keys.dead_letters(account.partition))


def _who(reservation: Reservation) -> bytes:
    """Whose a usage record is. The functions in Redis keep it as it is."""
    return _json((reservation.id, reservation.user, reservation.email, reservation.model))


def _used_of(packed: bytes | None, now: int, fresh_ms: int) -> ByDimension | None:
    if packed is None:
        return None
    try:
        row = _HEAD.unpack_from(packed)
    except struct.error:
        return None
    at, used, blind, (r_ends, i_ends, o_ends) = row[_AT], row[_USED], row[_BLIND], row[_ENDS]
    # Written out: a generator for each of these takes as long as all the rest, and this is done for each item.
    if at < 0 or 0 < r_ends <= now or 0 < i_ends <= now or 0 < o_ends <= now:
        return None
    if any(blind) and row[_ASK] != at + fresh_ms:
        return None
    requests, inputs, outputs = map(add, used, blind)
    if 0 <= requests <= _EXACT and 0 <= inputs <= _EXACT and 0 <= outputs <= _EXACT:
        return int(requests), int(inputs), int(outputs)
    return None
