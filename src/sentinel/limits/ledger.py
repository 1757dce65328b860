"""The rule of admission and settling in Python: the twin of the Lua scripts, and the ledger while Redis is away.

Every function mirrors the script or the Lua function of its name; read ledger.lua for the meaning of each field.
Moments are milliseconds since the Unix epoch and arrive as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sentinel.limits.policy import SLICES, Ask, Policy, Quota, Triple, Verdict, Window, verdict_of

CLAIM_MS = 5000
REMEMBER_EXPIRED_MS = 3_600_000


@dataclass(slots=True)
class Lease:
    """A reservation in flight.

    sent: output delivered at the last checkpoint, -1 before the first byte. billed: when an earlier lease ended.
    """

    ends: int
    at: int
    cost: list[int]
    user: str
    email: str
    model: str
    sent: int = -1
    billed: Triple = (0, 0, 0)


@dataclass(slots=True)
class Bill:
    """A usage record as the outbox holds it. at: 0 = the moment of its writing."""

    id: str
    user: str
    email: str
    model: str
    spent: Triple
    period: int
    at: int


@dataclass(slots=True)
class Snapshot:
    """What Zion last said about a user's limits."""

    at: int
    ends: int
    limit: list[int]
    used: list[int]


@dataclass(slots=True)
class Account:
    """One user's state."""

    windows: dict[str, list[list[int]]] = field(default_factory=dict)
    quota: Snapshot | None = None
    held: list[int] = field(default_factory=lambda: [0, 0, 0])
    pend: list[int] = field(default_factory=lambda: [0, 0, 0])
    n: int = 0
    rolled: int = 0
    seq: int = 0
    claim: int = 0
    open: int = 0
    lease: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)
    expired: dict[str, tuple[int, Triple]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    outbox: list[Bill] = field(default_factory=list)

    def roll(self, now: int) -> None:
        """A quota period that is over takes its spending with it."""
        q = self.quota
        if q and 0 < q.ends <= now:
            self.rolled, self.n = q.ends, self.n + 1
            self.pend = [0, 0, 0]
            q.used, q.ends = [0, 0, 0], 0

    def left(self, d: int) -> int | None:
        """What the quota leaves in dimension `d`; None where it does not limit."""
        q = self.quota
        if q is None or q.limit[d] < 0:
            return None
        return q.limit[d] - q.used[d] - self.pend[d] - self.held[d]

    def live(self, window: Window, now: int) -> list[list[int]]:
        """The slices still in the window, as [slice, amount]; older ones are dropped."""
        oldest = now // window.slice_ms - SLICES
        kept = [pair for pair in self.windows.get(window.name, []) if pair[0] >= oldest]
        self.windows[window.name] = kept
        return kept


def reserve(account: Account, policy: Policy, ask: Ask, now: int) -> Verdict:
    """Admit one request over all dimensions at once, or refuse it and change nothing (reserve.lua)."""
    account.roll(now)
    q = account.quota
    if q is None or now >= q.at + policy.fresh_ms + policy.stale_ms:
        return verdict_of([2, now, 0, 0, 1, 0, account.seq], policy)
    stale = now >= q.at + policy.fresh_ms or (q.ends == 0 and account.rolled > q.at)
    refresh = stale and now >= account.claim
    if refresh:
        account.claim = now + CLAIM_MS
    expire(account, policy, now)

    totals = [sum(amount for _, amount in account.live(w, now)) for w in policy.windows]
    granted, finite = ask.output_tokens, 0
    rooms = [w.limit - total for w, total in zip(policy.windows, totals, strict=True) if w.dimension == 2]
    quota_room = account.left(2)
    if quota_room is not None:
        rooms.append(quota_room)
    if rooms:
        granted, finite = min(granted, *rooms), 1
        if ask.fair_output > 0:
            granted = min(granted, max(ask.fair_output, min(rooms) // 4))
    granted = max(0, granted)
    cost = [1, ask.input_tokens, max(granted, ask.least_output)]

    blocker = _blocker(account, policy, totals, cost, now)
    admitted = blocker[1] == 0
    if admitted:
        cost[2] = granted
        _take(account, policy, ask, cost, now)
        totals = [total + cost[w.dimension] for w, total in zip(policy.windows, totals, strict=True)]
    answer = [0 if admitted else 1, now, granted, finite, int(refresh), int(stale), account.seq, *blocker]
    for w, total in zip(policy.windows, totals, strict=True):
        pairs = account.windows[w.name]
        answer += [max(0, w.limit - total), (pairs[-1][0] + SLICES + 1) * w.slice_ms if pairs else now]
    answer.append(-1 if policy.concurrency is None else max(0, policy.concurrency - account.open))
    return verdict_of(answer, policy)


def _blocker(account: Account, policy: Policy, totals: list[int], cost: list[int], now: int) -> list[int]:
    """wait, kind, which, limit, used, remaining, reset; all zero if nothing stands in the way."""
    found = [0, 0, 0, 0, 0, 0, 0]
    if policy.concurrency is not None and account.open >= policy.concurrency:
        found = [1000, 2, 0, policy.concurrency, account.open, 0, now + 1000]
    for k, (w, total) in enumerate(zip(policy.windows, totals, strict=True)):
        missing = total + cost[w.dimension] - w.limit
        if missing <= 0 or cost[w.dimension] == 0 or found[0] < 0:
            continue
        at = _fits_at(account.windows[w.name], w, missing) if cost[w.dimension] <= w.limit else -1
        if at < 0 or at - now > found[0]:
            reset = now + (SLICES + 1) * w.slice_ms if at < 0 else at
            found = [-1 if at < 0 else at - now, 1, k + 1, w.limit, total, max(0, w.limit - total), reset]
    q = account.quota
    for d in range(3):
        room = account.left(d)
        if q is not None and room is not None and room < cost[d] > 0 and found[1] != 3:
            wait = q.ends - now if q.ends > 0 else -1
            found = [wait, 3, d + 1, q.limit[d], q.limit[d] - max(0, room), max(0, room), q.ends]
    return found


def _fits_at(pairs: list[list[int]], window: Window, missing: int) -> int:
    freed = 0
    for slice_, amount in pairs:
        freed += amount
        if freed >= missing:
            return (slice_ + SLICES + 1) * window.slice_ms
    return -1


def _take(account: Account, policy: Policy, ask: Ask, cost: list[int], now: int) -> None:
    for w in policy.windows:
        _charge(account.windows[w.name], now // w.slice_ms, cost[w.dimension])
    _add(account.held, cost, 1)
    account.open += 1
    ends = now + policy.lease_ms
    account.leases[ask.id] = Lease(ends, now, list(cost), ask.user, ask.email, ask.model)
    account.lease = ends if account.lease == 0 else min(account.lease, ends)


def extend(account: Account, policy: Policy, ask: Ask, more: int, sent: int, now: int) -> int:
    """Keep a lease alive, note what was delivered, and reserve `more` output; returns what was added (extend.lua).

    `ask` tells what the lease held so far, in case it had ended.
    """
    if ask.id in account.settled:
        return 0
    account.roll(now)
    expire(account, policy, now)
    rooms = [w.limit - sum(a for _, a in account.live(w, now)) for w in policy.windows if w.dimension == 2]
    quota_room = account.left(2)
    if quota_room is not None:
        rooms.append(quota_room)
    more = max(0, min(more, *rooms) if rooms else more)
    lease = account.leases.get(ask.id)
    if lease is None:
        lease = Lease(0, now, [1, ask.input_tokens, ask.output_tokens], ask.user, ask.email, ask.model)
        _, lease.billed = account.expired.pop(ask.id, (0, (0, 0, 0)))
        account.open += 1
        _add(account.held, lease.cost, 1)
        account.leases[ask.id] = lease
    for w in policy.windows:
        if w.dimension == 2:
            _charge(account.windows[w.name], now // w.slice_ms, more)
    lease.cost[2] += more
    account.held[2] += more
    lease.sent = max(lease.sent, sent)
    lease.ends = now + policy.lease_ms
    account.lease = lease.ends if account.lease == 0 else min(account.lease, lease.ends)
    return more


def settle(account: Account, policy: Policy, ask: Ask, spent: Triple, now: int, at: int = 0) -> bool:
    """Replace a reservation by the true cost and write the bill, once per id; False if it was settled (settle.lua)."""
    if ask.id in account.settled:
        return False
    account.settled.add(ask.id)
    account.roll(now)
    lease = account.leases.pop(ask.id, None)
    if lease is not None:
        _add(account.held, lease.cost, -1)
        account.open = max(0, account.open - 1)
    else:
        _, billed = account.expired.pop(ask.id, (0, (0, 0, 0)))
        lease = Lease(0, now, [1, billed[1], billed[2]], ask.user, ask.email, ask.model, billed=billed)
    _correct(account, policy, lease, (1, spent[1], spent[2]), now)
    _bill(account, ask.id, replace(lease, user=ask.user, email=ask.email, model=ask.model), spent, at)
    return True


def expire(account: Account, policy: Policy, now: int) -> int:
    """End the leases that are due; returns how many reservations came back (expire.lua)."""
    account.roll(now)
    if account.lease == 0 or now < account.lease:
        return 0
    count = 0
    account.expired = {id_: entry for id_, entry in account.expired.items() if entry[0] > now}
    for id_, lease in list(account.leases.items()):
        if lease.ends > now:
            continue
        spent = (1, 0, 0) if lease.sent < 0 else (1, lease.cost[1], lease.sent)
        _correct(account, policy, lease, spent, now)
        _add(account.held, lease.cost, -1)
        account.open = max(0, account.open - 1)
        count += 1
        del account.leases[id_]
        if lease.sent >= 0:
            _bill(account, id_, lease, spent, 0)
            account.expired[id_] = (now + REMEMBER_EXPIRED_MS, spent)
    ends = [lease.ends for lease in account.leases.values()] + [entry[0] for entry in account.expired.values()]
    account.lease = min(ends, default=0)
    return count


def refresh(account: Account, quota: Quota, seq: int, now: int) -> None:
    """Take what Zion says about the limits, asked when `seq` acknowledgements were known (refresh.lua)."""
    account.roll(now)
    q, ends, used = account.quota, quota.period_ends_ms, list(quota.used)
    if q and 0 < ends <= account.rolled:
        used, ends = q.used, 0
    elif q and 0 < q.ends < ends:
        account.rolled, account.n = q.ends, account.n + 1
        account.pend = [0, 0, 0]
    elif q and seq != account.seq:
        used = [max(new, old) for new, old in zip(used, q.used, strict=True)]
    account.quota = Snapshot(now, ends if ends > now else 0, list(quota.limit), used)
    account.claim = 0


def acknowledge(account: Account, spent: Triple, period: int, new: Triple, limit: Triple, now: int) -> None:
    """Zion has taken usage: move it from pending to used (acknowledge.lua). new: -1, limit: -2 where not told."""
    account.roll(now)
    account.seq += 1
    if period != account.n:
        return
    _add(account.pend, spent, -1)
    q = account.quota
    for d in range(3) if q else ():
        assert q is not None
        q.used[d] = max(q.used[d], new[d]) if new[d] >= 0 else q.used[d] + spent[d]
        if limit[d] >= 0:
            q.limit[d] = limit[d]


def _charge(pairs: list[list[int]], slice_: int, amount: int) -> None:
    if amount == 0:
        return
    i = len(pairs) - 1
    while i >= 0 and pairs[i][0] > slice_:
        i -= 1
    if i >= 0 and pairs[i][0] == slice_:
        pairs[i][1] = max(0, pairs[i][1] + amount)
        if pairs[i][1] == 0:
            del pairs[i]
    elif amount > 0:
        pairs.insert(i + 1, [slice_, amount])


def _correct(account: Account, policy: Policy, lease: Lease, spent: Triple, now: int) -> None:
    for w in policy.windows:
        excess = spent[w.dimension] - lease.cost[w.dimension]
        if excess:
            _charge(account.live(w, now), (lease.at if excess < 0 else now) // w.slice_ms, excess)


def _add(triple: list[int], other: list[int] | Triple, sign: int) -> None:
    for d in range(3):
        triple[d] = max(0, triple[d] + sign * other[d])


def _bill(account: Account, id_: str, lease: Lease, total: Triple, at: int) -> None:
    r, i, o = (max(0, t - b) for t, b in zip(total, lease.billed, strict=True))
    spent = (r, i, o)
    if any(spent):
        _add(account.pend, spent, 1)
        account.outbox.append(Bill(id_, lease.user, lease.email, lease.model, spent, account.n, at))
