"""Which batch is worked on next. Decisions only: moments are monotonic seconds and come as arguments.

When a batch fails, either the governance is not well, or one of its items makes it fail. Nothing new is read until that
is known: after some failures one item is tried alone, and where that passes, halves are (bisection), until the item at
fault stands alone. From then on its user is isolated: reported alone, and in nobody's way. Where the fault cannot be
found, held batches and new ones take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from sentinel.usage.batch import MOST_ITEMS, Batch, Item

MOST_HELD_ITEMS = 3 * MOST_ITEMS
MOST_FAILING = 3
"""So many items held back, or, while the governance fails, so many batches: with more nothing new is read."""

PROBE_AFTER, GIVE_UP_AFTER = 3, 6
"""Failures of a batch, while the governance tells limits, after which one of its items is tried alone; and after which
nobody waits for the finding any longer."""

ISOLATION_SECONDS = 600.0
MOST_ISOLATED = 1000
"""So long, and for so many users at most, whoever has spoilt a batch is reported alone."""


@dataclass(slots=True, eq=False)
class HeldBatch:
    """A batch and where it stands.

    sent: it is written down as sent, and may have been booked. unconfirmed: whether it was is to be found out first.
    claimed: somebody said yes, without a receipt; what cannot be found out counts as booked then.
    due: not before this moment. attempts, failed_at: how often and when it has failed. passed: how many batches
    were taken by then, -1 = it has not failed. suspect: others passed between two failures of this one.
    """

    batch: Batch
    sent: bool = False
    unconfirmed: bool = False
    claimed: bool = False
    unconfirmed_since: float = 0.0
    attempts: int = 0
    failed_at: float = 0.0
    due: float = 0.0
    passed: int = -1
    suspect: bool = False


class Scheduler:
    """Batches that are held, and items that are in none yet (`loose`). new_key: makes the key of a new batch.

    failures: how often the governance has failed in a row; until `pause_until` it is left alone.
    backoff_scale: makes all pauses longer or shorter.
    """

    def __init__(self, new_key: Callable[[], str], backoff_scale: float = 1.0) -> None:
        self._backoff_scale = backoff_scale
        self.held: list[HeldBatch] = []
        self.loose: list[Item] = []
        self.failures = 0
        self.pause_until = 0.0
        self._new_key = new_key
        self._passed = 0
        self._isolated: dict[str, float] = {}
        self._new_is_next = False

    @property
    def empty(self) -> bool:
        """Whether nothing is held and nothing loose."""
        return not self.held and not self.loose

    def clear(self) -> None:
        """All of it is to be read again."""
        self.held, self.loose = [], []

    def hold(self, items: Sequence[Item], due: float = 0.0) -> HeldBatch:
        """Make a batch of these items."""
        held = HeldBatch(Batch(self._new_key(), list(items)), due=due)
        self.held.append(held)
        return held

    def replace(self, held: HeldBatch, parts: Iterable[Sequence[Item]]) -> None:
        """Make batches of the parts of one of which nothing was taken. What is held against it is held against them."""
        self.held.remove(held)
        for items in parts:
            self.hold(items).passed = held.passed

    def add(self, items: Iterable[Item], now: float) -> None:
        """Take items that were read. What an isolated user spends meanwhile is summed up, so it stays one item."""
        isolated = self._isolated_at(now)
        waiting = {item.key: item for item in self.loose if item.user in isolated}
        for item in items:
            first = waiting.get(item.key) if waiting else None
            if first is None or not first.merge(item):
                self.loose.append(item)

    # ------------------------------------------------------------------------------------------------------ choosing

    def next(self, now: float, most_items: int = MOST_ITEMS) -> HeldBatch | None:
        """The batch to work on now.

        Unconfirmed ones come first: until it is known what was booked, nothing of the same user may be sent.
        """
        isolated = self._isolated_at(now)
        for held in self.held:
            if held.unconfirmed and held.due <= now:
                return held
            if held.unconfirmed and not self._is_alone(held, isolated):
                return None
        # What was not tried yet comes first: the parts of a batch that failed tell soon which of them is to blame.
        due = [held for held in self.held if held.due <= now and not held.unconfirmed]
        old = min(due, key=lambda held: (self._is_alone(held, isolated), held.failed_at), default=None)
        new = self._ready(isolated, most_items)
        if old is not None and not (new and (self._new_is_next or self._is_alone(old, isolated))):
            self._new_is_next = True
            return old
        self._new_is_next = False
        if not new:
            return None
        if isolated:
            chosen = set(map(id, new))
            self.loose = [item for item in self.loose if id(item) not in chosen]
        else:
            self.loose = self.loose[len(new) :]
        return self.hold(new)

    def wants_more(self, now: float) -> bool:
        """Whether new records may be read."""
        isolated = self._isolated_at(now)
        return self._may_hold_more(isolated) and all(item.user in isolated for item in self.loose)

    def _ready(self, isolated: Collection[str], most_items: int) -> list[Item]:
        """The loose items that may go together now; of isolated users one, whose last one is done with."""
        if not self._may_hold_more(isolated):
            return []
        good = [item for item in self.loose if item.user not in isolated] if isolated else self.loose
        if good:
            return good[:most_items]
        busy = {item.user for held in self.held for item in held.batch.items}
        return [item for item in self.loose if item.user not in busy][:1]

    def _may_hold_more(self, isolated: Collection[str]) -> bool:
        others = [held for held in self.held if not self._is_alone(held, isolated)]
        if any(held.passed >= 0 and held.attempts < GIVE_UP_AFTER for held in others):
            return False
        if self.failures:
            return len(others) < MOST_FAILING
        return sum(len(held.batch.items) for held in others) < MOST_HELD_ITEMS

    # ------------------------------------------------------------------------------------------------------- telling

    def taken(self, held: HeldBatch) -> None:
        """This batch was taken."""
        self._passed += 1
        self.failures = 0
        self.held.remove(held)

    def failed(self, held: HeldBatch, now: float, *, unconfirmed: bool, at_least: float, jitter: float) -> None:
        """This batch was not: the governance is not well, or one of the items makes it fail.

        at_least: seconds to wait. jitter: 0 to 1.
        """
        held.attempts += 1
        held.sent = held.unconfirmed = unconfirmed
        held.unconfirmed_since = held.failed_at = now
        held.suspect = unconfirmed and 0 <= held.passed < self._passed
        held.passed = self._passed
        if unconfirmed and self._is_alone(held, self._isolated_at(now)):
            held.due = now + max(at_least, self.backoff(held.attempts, jitter))
        else:
            self.back_off(held, now, at_least=at_least, jitter=jitter)

    def back_off(self, held: HeldBatch, now: float, *, at_least: float, jitter: float) -> None:
        """The governance fails: leave it alone for a while, longer each time."""
        self.failures += 1
        self.pause_until = held.due = now + max(at_least, self.backoff(self.failures, jitter))

    def isolate(self, user: str, now: float) -> list[tuple[HeldBatch, list[list[Item]]]]:
        """This user's items spoil the batches that they are in; returns held ones with them, each with its parts."""
        self._isolated = {user: until for user, until in self._isolated.items() if until > now}
        if len(self._isolated) >= MOST_ISOLATED:
            return []
        self._isolated[user] = now + ISOLATION_SECONDS
        spoilt = []
        for held in self.held:
            items = held.batch.items
            alone, rest = [[item] for item in items if item.user == user], [item for item in items if item.user != user]
            if alone and not held.sent and len(items) > 1:
                spoilt.append((held, [*alone, rest] if rest else alone))
        return spoilt

    def backoff(self, attempts: int, jitter: float) -> float:
        """Seconds to wait after so many failures in a row."""
        return backoff_seconds(attempts, jitter) * self._backoff_scale

    def _isolated_at(self, now: float) -> Collection[str]:
        return {user for user, until in self._isolated.items() if until > now}

    @staticmethod
    def _is_alone(held: HeldBatch, isolated: Collection[str]) -> bool:
        return len(held.batch.items) == 1 and held.batch.items[0].user in isolated


def backoff_seconds(attempts: int, jitter: float) -> float:
    """How long to wait after so many failures in a row: 0.5 s doubling to 10 s, times 0.5 to 1.5. jitter: 0 to 1.

    10 s: a governance that was away for long gets what waits for it 15 s after its return at the latest.
    """
    return float(min(10.0, 0.25 * 2 ** min(attempts, 10)) * (0.5 + jitter))
