"""One user's account, and what is kept in it: the fields of ledger.lua, which tells their meaning, as plain values.

Moments are milliseconds since the Unix epoch and arrive as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sentinel.limits.policy import FREE, SLICES, ByDimension, Cost, Policy, Window

NO_LIMIT: Final = float("inf")


def zeros() -> list[int]:
    """A triple of nothing."""
    return [0, 0, 0]


def add(triple: list[int], other: list[int] | ByDimension, sign: int) -> None:
    """Add a triple to one of an account, or take it off; never below zero."""
    for d in range(3):
        triple[d] = max(0, triple[d] + sign * other[d])


@dataclass(slots=True)
class Lease:
    """A reservation in flight.

    delivered: output delivered at the last checkpoint, -1 before the first byte. billed: when an earlier lease ended.
    more: (moment, tokens) of each extension.
    """

    ends: int
    at: int
    cost: list[int]
    user: str
    email: str
    model: str
    delivered: int = -1
    billed: Cost = FREE
    more: list[tuple[int, int]] = field(default_factory=list)

    @property
    def holds(self) -> Cost:
        """What is reserved by it, less what was billed before: that is usage by now."""
        return Cost(*self.cost).beyond(self.billed)


@dataclass(slots=True)
class Bill:
    """A usage record as the outbox holds it, or a dead letter. at: 0 = the moment of its writing."""

    id: str
    user: str
    email: str
    model: str
    spent: Cost
    period: int
    at: int
    cost_micro_usd: int = 0


@dataclass(slots=True)
class Snapshot:
    """What Zion last said about a user's limits."""

    at: int
    limit: list[int]
    used: list[int]
    ends: list[int]


@dataclass(slots=True)
class Account:
    """One user's state. windows: slice -> amount, by the window's name."""

    windows: dict[str, dict[int, int]] = field(default_factory=dict)
    quota: Snapshot | None = None
    held: list[int] = field(default_factory=zeros)
    pend: list[int] = field(default_factory=zeros)
    blind: list[int] = field(default_factory=zeros)
    letters: list[int] = field(default_factory=zeros)
    n: int = 0
    rolled: list[int] = field(default_factory=zeros)
    seq: int = 0
    ask: int = 0
    open: int = 0
    lease: int = 0
    last: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)
    expired: dict[str, tuple[int, Cost]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    outbox: list[Bill] = field(default_factory=list)

    def load(self, policy: Policy, now: int) -> bool:
        """Take the account to `now`; say whether that changed it: the clock went back, or a quota period is over."""
        back = self.last > now
        if back:
            self._rewind(policy, now)
            self.last = now
        q = self.quota
        over = [d for d in range(3) if q and 0 < q.ends[d] <= now]
        for d in over:
            assert q is not None
            self.rolled[d], q.ends[d], q.used[d] = q.ends[d], 0, 0
            self.letters[d] = 0
        if over:
            self.n, self.ask, self.last = self.n + 1, 0, now
        return back or bool(over)

    def _rewind(self, policy: Policy, now: int) -> None:
        for w in policy.windows:
            slices, current = self.windows.get(w.name, {}), w.slice_of(now)
            for slice_ in [s for s in slices if s > current]:
                slices[current] = slices.get(current, 0) + slices.pop(slice_)
        for lease in self.leases.values():
            lease.ends, lease.at = min(lease.ends, now + policy.lease_ms), min(lease.at, now)
            lease.more = [(min(at, now), tokens) for at, tokens in lease.more]
        if self.quota:
            self.quota.at = min(self.quota.at, now)
        self.ask, self.lease = min(self.ask, now), min(self.lease, now)

    def known(self, policy: Policy, now: int) -> Snapshot | None:
        """Zion's word about the limits, while it counts."""
        q = self.quota
        return q if q is not None and now < q.at + policy.fresh_ms + policy.stale_ms else None

    def left(self, d: int) -> float | None:
        """What the quota leaves in dimension `d`: NO_LIMIT where it does not limit, None where that is not known."""
        q = self.quota
        if q is None:
            return None
        if q.limit[d] < 0:
            return NO_LIMIT
        return q.limit[d] - q.used[d] - self.blind[d] - self.pend[d] - self.held[d] - self.letters[d]

    def hold(self, lease: Lease, sign: int) -> None:
        """Count what a lease holds, or no more."""
        add(self.held, lease.holds, sign)
        self.open = max(0, self.open + sign)

    def is_current(self, d: int, period: int, at: int) -> bool:
        """Whether usage of this quota period and moment is of the period in force."""
        return period == self.n or at >= self.rolled[d]

    def in_window(self, window: Window, now: int) -> dict[int, int]:
        """The slices still in the window."""
        oldest = window.slice_of(now) - SLICES
        return {s: amount for s, amount in self.windows.get(window.name, {}).items() if s >= oldest}

    def live(self, window: Window, now: int) -> dict[int, int]:
        """The slices still in the window; older ones are dropped."""
        kept = self.windows[window.name] = self.in_window(window, now)
        return kept
