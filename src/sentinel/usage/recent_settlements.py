"""What was settled in the last seconds, and what of it a lost connection puts at risk. Decisions only.

With `appendfsync everysec` a Redis that comes back may have lost its last moments, so what was settled right before a
connection was lost is settled again; and what else must not be forgotten is noted again, such as jobs and whose objects
are. Moments are monotonic seconds and come as arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar

import msgspec

from sentinel.limits.policy import Cost, Reservation

REMEMBER_SECONDS = 2.5
MOST_REMEMBERED = 50_000
"""21 MB."""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """A settlement that Redis has taken. at: monotonic seconds; at_ms: the same by the wall clock."""

    at: float
    at_ms: int
    reservation: Reservation
    spent: Cost
    started_ms: int
    cost_micro_usd: int = 0

    @property
    def id(self) -> str:
        """Of its request."""
        return self.reservation.id

    @property
    def user(self) -> str:
        """Whose it is."""
        return self.reservation.user


class Noted(msgspec.Struct, frozen=True):
    """Something else that Redis has taken, or was to. id: unlike any other's. again: notes it, True if it was lost."""

    at: float
    at_ms: int
    id: str
    user: str
    again: Callable[[], Awaitable[bool]]


class Taken(Protocol):
    """Either of them."""

    @property
    def at(self) -> float:
        """When, in monotonic seconds."""

    @property
    def id(self) -> str:
        """Unlike any other's."""

    @property
    def user(self) -> str:
        """Whose it is."""


T = TypeVar("T", bound=Taken)


class RecentSettlements(Generic[T]):
    """A window of settlements, or notes, and those at risk."""

    def __init__(self) -> None:
        self._recent: deque[T] = deque(maxlen=MOST_REMEMBERED)
        self._at_risk: dict[str, T] = {}
        self._seen: tuple[bool, int] | None = None
        self._seen_at = 0.0

    def __len__(self) -> int:
        return len(self._recent)

    @property
    def are_at_risk(self) -> bool:
        """Whether any are."""
        return bool(self._at_risk)

    def at_risk(self) -> list[T]:
        """Those that are to be settled again."""
        return list(self._at_risk.values())

    def add(self, settled: T) -> None:
        """This was settled now."""
        recent, oldest = self._recent, settled.at - REMEMBER_SECONDS
        while recent and recent[0].at < oldest:
            recent.popleft()
        recent.append(settled)

    def watch(self, connections: tuple[bool, int], now: float) -> None:
        """Look at the connections to Redis: whether all stand, and how often one was made.

        How old a settlement is counts by the moment of a loss, not by that of the return, nor by who settled since.
        """
        if self._seen is not None and connections != self._seen:
            since = self._seen_at - REMEMBER_SECONDS
            self._put_at_risk(settled for settled in self._recent if settled.at >= since)
        self._seen, self._seen_at = connections, now

    def missed(self, settled: T) -> None:
        """Redis was away when it was to take this: it is at risk from now on, however long that lasts."""
        self._put_at_risk((settled,))

    def _put_at_risk(self, settled: Iterable[T]) -> None:
        self._at_risk |= {one.id: one for one in settled}
        for surplus in list(self._at_risk)[: max(0, len(self._at_risk) - MOST_REMEMBERED)]:
            del self._at_risk[surplus]

    def settled_again(self, settled: Iterable[T]) -> None:
        """These are at risk no longer."""
        for one in settled:
            self._at_risk.pop(one.id, None)

    def forget(self, concerns: Callable[[str], bool]) -> None:
        """Nothing of the users whom it concerns is settled anew: Redis has lost all that it knew of them."""
        kept = (settled for settled in self._recent if not concerns(settled.user))
        self._recent = deque(kept, maxlen=MOST_REMEMBERED)
        self._at_risk = {id_: one for id_, one in self._at_risk.items() if not concerns(one.user)}
