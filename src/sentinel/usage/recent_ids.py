"""Which ids were seen in the last seconds: a window in bounded memory, on a clock that can stand still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from sentinel.clock import monotonic

T = TypeVar("T")

REMEMBER_SECONDS = 5.0
"""So long we know what was taken, should Redis forget it: with `appendfsync everysec` that is a second or two.
While Redis is away that time stands still."""

MOST_REMEMBERED = 100_000
"""Twice as many are known at most, 21 MB. At 30,000 a second, more than a process delivers, those are 3 s at least."""


class RecentIds(Generic[T]):
    """The ids of the last `seconds`, and perhaps of as many before. clock: in seconds."""

    def __init__(self, seconds: float = REMEMBER_SECONDS, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._new: set[T] = set()
        self._old: set[T] = set()
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, id_: T) -> bool:
        return id_ in self._new or id_ in self._old

    def has_any(self, ids: Sequence[T]) -> bool:
        """Whether any of these is among them: one call for all of a page, for nearly always none is."""
        return not (self._new.isdisjoint(ids) and self._old.isdisjoint(ids))

    def add(self, ids: Iterable[T]) -> None:
        """They were seen now."""
        if len(self._new) >= MOST_REMEMBERED:
            self._rotate()
        if not self._new:
            self._since = self._clock()
        self._new.update(ids)

    def age(self) -> None:
        """Forget what is too old by now."""
        age = self._clock() - self._since
        if age > self._seconds and (self._new or self._old):
            self._rotate()
            if age > 2 * self._seconds:
                self._old = set()

    def _rotate(self) -> None:
        self._new, self._old, self._since = set(), self._new, self._clock()
