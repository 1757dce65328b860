"""The rule of admission and settling in Python: the twin of the Lua scripts, and the ledger while Redis is away.

Every function mirrors the script or the Lua function of its name; read ledger.lua for the meaning of each field.
Moments are milliseconds since the Unix epoch and arrive as arguments. It is long because the library in Lua is.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from sentinel.limits.account import NO_LIMIT, Account, Bill, Lease, Snapshot, add, zeros
from sentinel.limits.policy import (
    FREE,
    PLACE_TAKEN,
    ByDimension,
    Cost,
    Policy,
    Quota,
    Reservation,
    Verdict,
    View,
    Window,
    verdict_of,
    view_of,
)

CLAIM_MS = 5000
EARLY_MS = 60_000
LATE_MS = 3_600_000
REMEMBER_EXPIRED_MS = 3_600_000
RETURNS_MS = 1000


def reserve(account: Account, policy: Policy, reservation: Reservation, now: int) -> Verdict:
    """Admit one request over all dimensions at once, or refuse it and change nothing (reserve.lua)."""
    account.load(policy, now)
    q = account.known(policy, now)
    lefts = [account.left(d) for d in range(3)]
    if q is None or None in lefts:
        return verdict_of((2, now, 0, 0, 1, 0, account.seq), policy)
    stale, refresh = now >= q.at + policy.fresh_ms, now >= account.ask
    if refresh:
        account.ask, account.last = now + CLAIM_MS, now
    _expire_due(account, policy, now)

    totals = [sum(account.live(w, now).values()) for w in policy.windows]
    granted, finite = reservation.output_tokens, 0
    room = _room(account, policy, totals)
    if room < NO_LIMIT:
        granted, finite = min(granted, int(room)), 1
        if reservation.fair_output > 0:
            granted = min(granted, max(reservation.fair_output, int(room) // 4))
    granted = max(0, granted)
    cost = [1, reservation.input_tokens, max(granted, reservation.least_output)]

    blocker = _blocker(account, policy, totals, cost, now)
    admitted = blocker[1] == 0
    if admitted:
        cost[2] = granted
        _take(account, policy, reservation, cost, now)
        totals = [total + cost[w.dimension] for w, total in zip(policy.windows, totals, strict=True)]
    answer = [0 if admitted else 1, now, granted, finite, int(refresh), int(stale), account.seq]
    answer += [_told(account.left(d)) for d in range(3)]
    answer.append(-1 if policy.concurrency is None else max(0, policy.concurrency - account.open))
    for w in policy.windows:
        answer += _state_of(account, w, now)
    if not admitted:
        answer += blocker
    return verdict_of(tuple(answer), policy)


def _room(account: Account, policy: Policy, totals: list[int]) -> float:
    """How much output fits; 0 where that is not known."""
    left = account.left(2)
    frees = [w.limit - total for w, total in zip(policy.windows, totals, strict=True) if w.dimension == 2]
    return 0 if left is None else min([left, *frees])


def _told(left: float | None) -> int:
    return -1 if left is None or left == NO_LIMIT else max(0, int(left))


def view(account: Account, policy: Policy, now: int) -> View:
    """What a user may spend and has spent; changes nothing (view.lua)."""
    now, q = max(now, account.last), account.quota
    limit, used, ends = (q.limit, q.used, q.ends) if q else ([-1, -1, -1], zeros(), zeros())
    over = [0 < end <= now for end in ends]
    answer = [
        int(account.known(policy, now) is not None),
        now,
        int(any(over) or now >= account.ask),
        account.seq,
        *limit,
    ]
    waiting = [account.blind[d] + account.pend[d] + account.held[d] for d in range(3)]
    answer += [waiting[d] + (0 if over[d] else used[d] + account.letters[d]) for d in range(3)]
    answer += [0 if over[d] else ends[d] for d in range(3)]
    for w in policy.windows:
        answer += _state_of(account, w, now)
    return view_of((*answer, account.open), policy)


def _state_of(account: Account, window: Window, now: int) -> list[int]:
    """What remains of a window, and the first moment at which all that it holds has left it."""
    slices = account.in_window(window, now)
    return [max(0, window.limit - sum(slices.values())), window.gone_ms(max(slices)) if slices else now]


def _blocker(account: Account, policy: Policy, totals: list[int], cost: list[int], now: int) -> list[int]:
    """wait, kind, which, limit, used, remaining, reset; all zero if nothing stands in the way."""
    found = [0, 0, 0, 0, 0, 0, 0]
    if policy.concurrency is not None and account.open >= policy.concurrency:
        found = _longer(found, [RETURNS_MS, 2, 0, policy.concurrency, account.open, 0, now + RETURNS_MS])
    for k, (w, total) in enumerate(zip(policy.windows, totals, strict=True)):
        missing, spent = total + cost[w.dimension] - w.limit, cost[w.dimension]
        if missing > 0 and spent > 0:
            at = _fits_at(account.windows[w.name], w, missing) if spent <= w.limit else -1
            wait, reset = (-1, now + w.window_ms) if at < 0 else (at - now, at)
            found = _longer(found, [wait, 1, k + 1, w.limit, total, max(0, w.limit - total), reset])
    q = account.quota
    for d in range(3):
        left = account.left(d)
        if q is not None and left is not None and left < cost[d] > 0:
            room = int(left)
            wait = q.ends[d] - now if q.ends[d] > 0 else -1
            if d > 0 and room + account.held[d] >= cost[d]:
                wait = RETURNS_MS
            found = _longer(found, [wait, 3, d + 1, q.limit[d], q.limit[d] - room, max(0, room), q.ends[d]])
    return found


def _longer(found: list[int], other: list[int]) -> list[int]:
    wait, kind = found[:2]
    longer = wait >= 0 and (other[0] < 0 or other[0] > wait)
    told = other if kind == 0 or longer or (other[1] == 3 and kind != 3) else found
    return [other[0] if longer else wait, *told[1:]]


def _fits_at(slices: dict[int, int], window: Window, missing: int) -> int:
    """The first moment at which so much has left a window that holds at least as much."""
    order = sorted(slices)
    freed = accumulate(slices[slice_] for slice_ in order)
    return window.gone_ms(next(slice_ for slice_, total in zip(order, freed, strict=True) if total >= missing))


def _take(account: Account, policy: Policy, reservation: Reservation, cost: list[int], now: int) -> None:
    for w in policy.windows:
        _charge(account.windows[w.name], w.slice_of(now), cost[w.dimension])
    account.last = now
    ends = now + policy.lease_ms
    lease = account.leases[reservation.id] = Lease(
        ends, now, list(cost), reservation.user, reservation.email, reservation.model
    )
    account.hold(lease, 1)
    account.lease = ends if account.lease == 0 else min(account.lease, ends)


def extend(
    account: Account, policy: Policy, reservation: Reservation, more: int, delivered: int, now: int
) -> int | None:
    """Keep a lease alive, note what was delivered, and reserve `more` output; returns what it holds then (extend.lua).

    `reservation` tells what the lease held so far, in case it had ended. None: no usable limits are known, nothing was
    added. PLACE_TAKEN: it had ended, nothing was delivered, and others have what it held.
    """
    if reservation.id in account.settled:
        return reservation.output_tokens
    _expire_due(account, policy, now)
    account.last = now
    known = account.known(policy, now) is not None
    totals = [sum(account.live(w, now).values()) for w in policy.windows]
    room = _room(account, policy, totals)
    lease = account.leases.get(reservation.id)
    if lease is None:
        is_free = not known or delivered >= 0 or reservation.id in account.expired
        if not is_free and not _has_place(account, policy, totals, reservation.input_tokens):
            return PLACE_TAKEN
        lease = _taken_up(
            account, policy, reservation, reservation.output_tokens if not known else max(0, room), delivered, now
        )
        room -= lease.holds[2]

    added = int(min(more, room)) if known else 0
    if added > 0:
        for w in policy.windows:
            if w.dimension == 2:
                _charge(account.windows[w.name], w.slice_of(now), added)
        lease.more.append((now, added))
        lease.cost[2] += added
        account.held[2] += added
    lease.delivered, lease.ends = max(lease.delivered, delivered), now + policy.lease_ms
    account.lease = lease.ends if account.lease == 0 else min(account.lease, lease.ends)
    return lease.cost[2] if known else None


def _has_place(account: Account, policy: Policy, totals: list[int], input_tokens: int) -> bool:
    """Whether a request and its input fit. Its windows of requests have it still."""
    requests, input_left = account.left(0), account.left(1)
    assert requests is not None
    assert input_left is not None
    frees = [w.limit - total for w, total in zip(policy.windows, totals, strict=True) if w.dimension == 1]
    return requests >= 1 and (input_tokens == 0 or min([input_left, *frees]) >= input_tokens)


def _taken_up(
    account: Account, policy: Policy, reservation: Reservation, room: float, delivered: int, now: int
) -> Lease:
    """A lease that had ended, with as much of its output as others have left, and at least what was delivered."""
    _, billed = account.expired.pop(reservation.id, (0, FREE))
    output = max(int(min(reservation.output_tokens, billed[2] + room)), delivered, billed[2])
    lease = Lease(
        0,
        now,
        [1, reservation.input_tokens, output],
        reservation.user,
        reservation.email,
        reservation.model,
        billed=billed,
    )
    account.leases[reservation.id] = lease
    account.hold(lease, 1)
    given_back = replace(lease, cost=[1, *billed[1:]])
    _correct(account, policy, given_back, Cost(1, lease.cost[1], lease.cost[2]), now)
    return lease


def settle(
    account: Account,
    policy: Policy,
    reservation: Reservation,
    spent: Cost,
    now: int,
    at: int = 0,
    *,
    unsure: bool = False,
    cost_micro_usd: int = 0,
) -> bool | None:
    """Replace a reservation by the true cost and write the bill, once per id; False if it was settled (settle.lua).

    unsure: it was tried so long ago that this may have been forgotten; None where nothing tells that it was not done.
    """
    if reservation.id in account.settled:
        return False
    if unsure and reservation.id not in account.leases and reservation.id not in account.expired:
        return None
    account.settled.add(reservation.id)
    account.load(policy, now)
    account.last = now
    lease = account.leases.pop(reservation.id, None)
    if lease is not None:
        account.hold(lease, -1)
    else:
        _, billed = account.expired.pop(reservation.id, (0, FREE))
        lease = Lease(
            0, now, [1, billed[1], billed[2]], reservation.user, reservation.email, reservation.model, billed=billed
        )
    _correct(account, policy, lease, Cost(1, spent.input, spent.output), now)
    _bill(
        account,
        reservation.id,
        replace(lease, user=reservation.user, email=reservation.email, model=reservation.model),
        spent,
        at,
        cost_micro_usd,
    )
    return True


def expire(account: Account, policy: Policy, now: int) -> int:
    """End the leases that are due; returns how many reservations came back (expire.lua)."""
    if 0 < account.lease <= now and not (account.leases or account.expired):
        account.lease = 0  # All are settled. That nothing else is touched is worth much in Redis.
        return 0
    return _expire_due(account, policy, now)


def _expire_due(account: Account, policy: Policy, now: int) -> int:
    account.load(policy, now)
    if account.lease == 0 or now < account.lease:
        return 0
    account.last = now
    count = 0
    account.expired = {id_: entry for id_, entry in account.expired.items() if entry[0] > now}
    for id_, lease in list(account.leases.items()):
        if lease.ends <= now:
            _expire_one(account, policy, id_, lease, now)
            count += 1
    ends = [lease.ends for lease in account.leases.values()] + [entry[0] for entry in account.expired.values()]
    account.lease = max(min(ends), now + policy.lease_ms // 20) if ends else 0
    return count


def _expire_one(account: Account, policy: Policy, id_: str, lease: Lease, now: int) -> None:
    spent = Cost(1, 0, 0) if lease.delivered < 0 else Cost(1, lease.cost[1], lease.delivered)
    _correct(account, policy, lease, spent, now)
    account.hold(lease, -1)
    del account.leases[id_]
    if lease.delivered >= 0:
        _bill(account, id_, lease, spent, 0)
        account.expired[id_] = (now + REMEMBER_EXPIRED_MS, spent)


def refresh(account: Account, policy: Policy, quota: Quota, seq: int, now: int) -> None:
    """Take what Zion says about the limits, asked when the account's was `seq` (refresh.lua)."""
    account.load(policy, now)
    account.last = now
    q, clean, early = account.quota, seq in (account.seq, -1), False
    used, ends, ask = list(quota.used), list(quota.ends_ms), now + (policy.fresh_ms if seq == account.seq else CLAIM_MS)
    for d in range(3):
        if q and 0 < ends[d] <= account.rolled[d] and now < account.rolled[d] + LATE_MS:
            used[d], ends[d], ask = q.used[d], q.ends[d], min(ask, now + max(CLAIM_MS, now - account.rolled[d]))
        elif q and 0 < q.ends[d] < ends[d]:
            account.rolled[d], early = q.ends[d], True
            account.letters[d] = 0
            if clean:
                account.blind[d] = 0
        elif clean:
            account.blind[d] = 0
        elif q:
            used[d] = max(used[d], q.used[d])
        if 0 < ends[d] <= now:
            ask, ends[d] = min(ask, now + max(CLAIM_MS, now - ends[d])), 0
    account.n += early
    account.seq += 1
    account.quota, account.ask = Snapshot(now, list(quota.limit), used, ends), ask


def forget(account: Account, policy: Policy, now: int) -> None:
    """Grant nothing before Zion was asked again (forget.lua)."""
    account.load(policy, now)
    account.last = now
    if account.quota is not None:
        account.quota.at = 0
    account.seq += 1


def acknowledge(
    account: Account, policy: Policy, spent: Cost, period: int, new: ByDimension, limit: ByDimension, now: int
) -> None:
    """Zion has taken usage: move it from pending to used (acknowledge.lua). new: -1, limit: -2 where not told."""
    account.load(policy, now)
    account.last = now
    account.seq += 1
    add(account.pend, spent, -1)
    q, again = account.quota, period != account.n
    for d in range(3):
        told = new[d] if q and period == account.n else -1
        if q and told >= 0 and 0 < q.ends[d] < now + EARLY_MS:
            told, again = -1, True
        if q and told >= 0:
            q.used[d], account.blind[d] = max(q.used[d], told), 0
        else:
            account.blind[d] += spent[d]
        if q and limit[d] >= 0 and limit[d] != q.limit[d]:
            q.limit[d], again = limit[d], True
    if q and again:
        account.ask = min(account.ask, q.at + CLAIM_MS)


def bury(account: Account, policy: Policy, bill: Bill, now: int) -> None:
    """Zion has refused usage for good: that is spent until its period is over or its letter gone (acknowledge.lua)."""
    account.load(policy, now)
    account.last = now
    account.seq += 1
    add(account.pend, bill.spent, -1)
    _count_letter(account, bill, 1)


def requeue(account: Account, policy: Policy, letter: Bill, now: int) -> None:
    """A dead letter is pending again (requeue.lua)."""
    discard(account, policy, letter, now)
    add(account.pend, letter.spent, 1)


def discard(account: Account, policy: Policy, letter: Bill, now: int) -> None:
    """A dead letter is deleted (discard.lua)."""
    account.load(policy, now)
    account.last = now
    _count_letter(account, letter, -1)


def _count_letter(account: Account, letter: Bill, sign: int) -> None:
    for d in range(3):
        if account.is_current(d, letter.period, letter.at):
            account.letters[d] = max(0, account.letters[d] + sign * letter.spent[d])


def _charge(slices: dict[int, int], slice_: int, amount: int) -> None:
    if amount > 0:
        slices[slice_] = slices.get(slice_, 0) + amount
    elif slice_ in slices:
        slices[slice_] += amount
        if slices[slice_] <= 0:
            del slices[slice_]


def _correct(account: Account, policy: Policy, lease: Lease, spent: Cost, now: int) -> None:
    for w in policy.windows:
        excess = spent[w.dimension] - lease.cost[w.dimension]
        if excess == 0:
            continue
        slices = account.live(w, now)
        for at, more in reversed(lease.more if w.dimension == 2 else []):
            back = min(0, max(excess, -more))
            _charge(slices, w.slice_of(at), back)
            excess -= back
        _charge(slices, w.slice_of(lease.at if excess < 0 else now), excess)


def _bill(account: Account, id_: str, lease: Lease, total: Cost, at: int, cost_micro_usd: int = 0) -> None:
    spent = total.beyond(lease.billed)
    if any(spent):
        add(account.pend, spent, 1)
        account.outbox.append(Bill(id_, lease.user, lease.email, lease.model, spent, account.n, at, cost_micro_usd))
