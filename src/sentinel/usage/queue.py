"""What waits to be told, and what goes next. Decisions only: moments are monotonic seconds and come as arguments.

When a batch fails, either Zion is not well, or one of its items is more than Zion can bear. Nothing new is read until
that is found out: after some failures one item is tried alone, and where that passes, halves are, until the item at
fault stands alone. From then on its user is told of alone, and stops nobody. Where it cannot be found out, held batches
and new ones take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sentinel.usage.batch import MOST_ITEMS, Batch, Item, backoff_seconds

MOST_HELD_ITEMS = 3 * MOST_ITEMS
MOST_FAILING = 3
"""So many items held back, or, while Zion fails, so many batches: with more nothing new is read."""

PROBE_AFTER, GIVE_UP_AFTER = 3, 6
"""Failures of a batch, while Zion tells limits, after which one of its items is tried alone; and after which nobody
waits for the finding any longer."""

APART_SECONDS = 600.0
MOST_APART = 1000
"""So long, and for so many users at most, whoever has spoilt a batch is told of alone."""


@dataclass(slots=True, eq=False)
class Held:
    """A batch and where it stands.

    sent: it is written down as sent, and Zion may have taken it. doubt: that is to be found out first. odd: it was
    answered with a 2xx that is no receipt; what cannot be found out counts as taken then.
    due: not before this moment. attempts, failed_at: how often and when it has failed. passed: how many batches Zion
    had taken by then, -1 = it has not failed. suspect: others passed between two failures of this one.
    """

    batch: Batch
    sent: bool = False
    doubt: bool = False
    odd: bool = False
    doubt_since: float = 0.0
    attempts: int = 0
    failed_at: float = 0.0
    due: float = 0.0
    passed: int = -1
    suspect: bool = False


class Queue:
    """Batches that are held, and items that are in none yet (`loose`). new_key: makes the key of a new batch.

    failures: how often Zion has failed in a row; until `pause_until` it is left alone.
    """

    def __init__(self, new_key: Callable[[], str]) -> None:
        self.held: list[Held] = []
        self.loose: list[Item] = []
        self.failures = 0
        self.pause_until = 0.0
        self._new_key = new_key
        self._passed = 0
        self._apart: dict[str, float] = {}
        self._new_is_next = False

    @property
    def empty(self) -> bool:
        """Whether nothing is held and nothing loose."""
        return not self.held and not self.loose

    def forget(self) -> None:
        """All of it is to be read again."""
        self.held, self.loose = [], []

    def hold(self, items: Sequence[Item], due: float = 0.0) -> Held:
        """Make a batch of these items."""
        held = Held(Batch(self._new_key(), list(items)), due=due)
        self.held.append(held)
        return held

    def replace(self, held: Held, parts: Iterable[Sequence[Item]]) -> None:
        """Make batches of the parts of one of which nothing was taken. What is held against it is held against them."""
        self.held.remove(held)
        for items in parts:
            self.hold(items).passed = held.passed

    def add(self, items: Iterable[Item], now: float) -> None:
        """Take items that were read. What one who is apart spends meanwhile is summed up, so it stays one item."""
        waiting = {item.key: item for item in self.loose if self._is_apart(item.user, now)}
        for item in items:
            first = waiting.get(item.key)
            if first is None or not first.merge(item):
                self.loose.append(item)

    # ------------------------------------------------------------------------------------------------------ choosing

    def next(self, now: float, most_items: int = MOST_ITEMS) -> Held | None:
        """The batch to work on now. Doubts come first: until they are settled nothing of the same user may be sent."""
        for held in self.held:
            if held.doubt and held.due <= now:
                return held
            if held.doubt and not self._is_alone(held, now):
                return None
        # What was not tried yet comes first: the parts of a batch that failed tell soon which of them is to blame.
        due = [held for held in self.held if held.due <= now and not held.doubt]
        old = min(due, key=lambda held: (self._is_alone(held, now), held.failed_at), default=None)
        new = self._ready(now, most_items)
        if old is not None and not (new and (self._new_is_next or self._is_alone(old, now))):
            self._new_is_next = True
            return old
        self._new_is_next = False
        if not new:
            return None
        chosen = set(map(id, new))
        self.loose = [item for item in self.loose if id(item) not in chosen]
        return self.hold(new)

    def wants_more(self, now: float) -> bool:
        """Whether new records may be read."""
        return self._may_hold_more(now) and all(self._is_apart(item.user, now) for item in self.loose)

    def _ready(self, now: float, most_items: int) -> list[Item]:
        """The loose items that may go together now; of those who are apart one, whose last one is done with."""
        if not self._may_hold_more(now):
            return []
        if good := [item for item in self.loose if not self._is_apart(item.user, now)]:
            return good[:most_items]
        busy = {item.user for held in self.held for item in held.batch.items}
        return [item for item in self.loose if item.user not in busy][:1]

    def _may_hold_more(self, now: float) -> bool:
        others = [held for held in self.held if not self._is_alone(held, now)]
        if any(held.passed >= 0 and held.attempts < GIVE_UP_AFTER for held in others):
            return False
        if self.failures:
            return len(others) < MOST_FAILING
        return sum(len(held.batch.items) for held in others) < MOST_HELD_ITEMS

    # ------------------------------------------------------------------------------------------------------- telling

    def taken(self, held: Held) -> None:
        """Zion has answered for this batch."""
        self._passed += 1
        self.failures = 0
        self.held.remove(held)

    def failed(self, held: Held, now: float, *, doubt: bool, at_least: float, jitter: float) -> None:
        """Zion has not: it is not well, or this batch is more than it can bear.

        at_least: seconds to wait. jitter: 0 to 1.
        """
        held.attempts += 1
        held.sent = held.doubt = doubt
        held.doubt_since = held.failed_at = now
        held.suspect = doubt and 0 <= held.passed < self._passed
        held.passed = self._passed
        if doubt and self._is_alone(held, now):
            held.due = now + max(at_least, backoff_seconds(held.attempts, jitter))
        else:
            self.wait(held, now, at_least=at_least, jitter=jitter)

    def wait(self, held: Held, now: float, *, at_least: float, jitter: float) -> None:
        """Zion fails: leave it alone for a while, longer each time."""
        self.failures += 1
        self.pause_until = held.due = now + max(at_least, backoff_seconds(self.failures, jitter))

    def set_apart(self, user: str, now: float) -> list[tuple[Held, list[list[Item]]]]:
        """This user's items spoil the batches that they are in; returns held ones with them, each with its parts."""
        self._apart = {user: until for user, until in self._apart.items() if until > now}
        if len(self._apart) >= MOST_APART:
            return []
        self._apart[user] = now + APART_SECONDS
        spoilt = []
        for held in self.held:
            items = held.batch.items
            alone, rest = [[item] for item in items if item.user == user], [item for item in items if item.user != user]
            if alone and not held.sent and len(items) > 1:
                spoilt.append((held, [*alone, rest] if rest else alone))
        return spoilt

    def _is_apart(self, user: str, now: float) -> bool:
        return self._apart.get(user, 0.0) > now

    def _is_alone(self, held: Held, now: float) -> bool:
        return len(held.batch.items) == 1 and self._is_apart(held.batch.items[0].user, now)
