"""What happened lately, in bounded memory, while a clock that can stand still goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from sentinel.clock import monotonic

T = TypeVar("T")

REMEMBER_SECONDS = 5.0
"""So long we know what Zion has taken, should Redis forget it: with `appendfsync everysec` that is a second or two.
While Redis is away that time stands still."""

MOST_REMEMBERED = 100_000
"""Twice as many are known at most, 21 MB. At 30,000 a second, more than a process delivers, those are 3 s at least."""


class Lately(Generic[T]):
    """What happened in the last REMEMBER_SECONDS, and perhaps in as many before."""

    def __init__(self) -> None:
        self._new: set[T] = set()
        self._old: set[T] = set()
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, thing: T) -> bool:
        return thing in self._new or thing in self._old

    def update(self, things: Iterable[T]) -> None:
        """They happened now."""
        if len(self._new) >= MOST_REMEMBERED:
            self._turn()
        if not self._new:
            self._since = monotonic()
        self._new.update(things)

    def age(self) -> None:
        """Forget what is too old by now."""
        age = monotonic() - self._since
        if age > REMEMBER_SECONDS and (self._new or self._old):
            self._turn()
            if age > 2 * REMEMBER_SECONDS:
                self._old = set()

    def _turn(self) -> None:
        self._new, self._old, self._since = set(), self._new, monotonic()
